// What every browser test stands on: a Chromium that reaches nothing but the product, axe, pictures, and a list of what went wrong
// that no test asked about. `tests/it/browser.rs` starts the product and runs the scripts.
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const require = createRequire(process.env.CARGOEXTRA_TEST_MODULES + '/');
const { chromium } = require('playwright-core');
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

export { assert };
export const origin = process.env.CARGOEXTRA_TEST_ORIGIN;
export const mailbox = process.env.CARGOEXTRA_TEST_MAILBOX;
const pictures = process.env.CARGOEXTRA_TEST_PICTURES;
mkdirSync(pictures, { recursive: true });

export const PASSWORD = 'correct horse battery';
export const NEW_PASSWORD = 'seven purple umbrellas';

export const problems = [];

const chrome = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1',
  ],
});

// A refused form is a page with a status of its own, which the console remarks upon.
const isStatus = (text) => /^Failed to load resource: the server responded with a status of 4\d\d/.test(text);
const isOurs = (url) => [origin, mailbox].some((ours) => url.startsWith(ours + '/')) || /^(about|data|blob):/.test(url);

/** A browser of its own: other cookies, other windows. Its guard notes foreign hosts and whatever the console complains about. */
export async function visitor(options = {}) {
  const context = await chrome.newContext({ permissions: ['clipboard-read', 'clipboard-write'], ...options });
  context.setDefaultTimeout(10_000);
  context.on('request', (request) => {
    if (!isOurs(request.url())) problems.push(`foreign host: ${request.url()}`);
  });
  context.on('console', (message) => {
    const complaint = ['error', 'warning'].includes(message.type()) && !isStatus(message.text());
    if (complaint) problems.push(`console: ${message.text()}`);
  });
  context.on('weberror', (error) => problems.push(`script: ${error.error().stack}`));
  return context;
}

const AXE = { runOnly: { type: 'tag', values: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'] } };
let audits = 0;

/** Looks at the page as it stands: axe in both themes, nothing wider than the window down to 320 px, and a picture of each. */
export async function look(page, name) {
  const window = page.viewportSize();
  for (const colorScheme of ['light', 'dark']) {
    await page.emulateMedia({ colorScheme });
    for (const width of [320, 360, 1280]) {
      await page.setViewportSize({ width, height: width < 500 ? 740 : 860 });
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) problems.push(`${name}: ${over} px too wide at ${width} px`);
      await page.evaluate(axe + ';0');
      const { violations } = await page.evaluate((options) => axe.run(document, options), AXE);
      audits += 1;
      for (const found of violations) {
        const places = found.nodes.map((node) => `${node.target} ${node.failureSummary}`).join(' | ');
        problems.push(`axe, ${name}, ${colorScheme}, ${width}: ${found.id}: ${places}`);
      }
      if (width !== 320 && !name.startsWith('guard')) await page.screenshot({ path: `${pictures}/${name}-${colorScheme}-${width}.png`, fullPage: true });
    }
  }
  await page.emulateMedia({ colorScheme: null });
  await page.setViewportSize(window);
}

const answers = createInterface({ input: process.stdin })[Symbol.asyncIterator]();

/** Has the product's clock go forward. */
export async function advance(minutes) {
  console.log(`::advance ${minutes * 60_000}`);
  const { value } = await answers.next();
  assert.equal(value, 'done');
}

/** The code in the newest mail to an address, taken from the mailbox page. `reference`: the mail that says so, and no other. */
export async function mailedCode(context, to, reference = '') {
  const page = await context.newPage();
  const address = `${mailbox}/dev/mailbox?to=${encodeURIComponent(to)}`;
  const subject = page.locator('#subject', { hasText: reference ? `(${reference})` : '' });
  // The worker is awake since the commit, but a page without script does not follow it.
  for (let tries = 0; tries < 50; tries += 1) {
    await page.goto(address);
    if (await subject.count()) break;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  const code = await page.locator('#found').textContent();
  await page.close();
  assert.match(code, /^[0-9A-Z]{5}-[0-9A-Z]{5}$/);
  return code;
}

export const heading = (page) => page.locator('h1').textContent();
export const at = (page) => new URL(page.url()).pathname;
export const reference = async (page) => (await page.locator('.ticket .says b').textContent()).trim();

/** Presses what submits the first form, and waits for the page that answers. */
export async function submit(page, name) {
  await Promise.all([page.waitForEvent('load'), page.getByRole('button', { name, exact: true }).click()]);
}

/** A verified account, made through the pages. */
export async function account(context, email, password = PASSWORD) {
  const page = await context.newPage();
  await page.goto(`${origin}/account/register`);
  await page.fill('#email', email);
  await page.fill('#password', password);
  await submit(page, 'Create account');
  assert.equal(at(page), '/account/verify');
  await page.fill('#code', await mailedCode(context, email, await reference(page)));
  await submit(page, 'Confirm address');
  assert.equal(at(page), '/account/login');
  await page.close();
}

export async function signIn(page, email, password = PASSWORD) {
  await page.goto(`${origin}/account/login`);
  await page.fill('#email', email);
  await page.fill('#password', password);
  await submit(page, 'Sign in');
}

/** Asks for a code; the screen then shows the reference. */
export async function forgot(page, email) {
  await page.goto(`${origin}/account/forgot`);
  await page.fill('#email', email);
  await submit(page, 'Send the code');
  assert.equal(at(page), '/account/confirm');
  return reference(page);
}

/** The end of every script: nothing may have gone wrong on the way. */
export async function done() {
  await chrome.close();
  assert.deepEqual(problems, []);
  console.log(`no complaint; ${audits} pages audited`);
  process.exit(0);
}
