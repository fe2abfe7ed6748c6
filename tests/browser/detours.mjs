// What people do: two tabs, back, reload, too late, another browser, no cookies, pasting half a mail.
import { NEW_PASSWORD, account, advance, assert, at, done, forgot, heading, look, mailbox, mailedCode, origin, reference, submit, visitor } from './lib.mjs';

const context = await visitor();
const page = await context.newPage();
const notice = () => page.locator('#notice').textContent();
await account(context, 'one@example.com');
await account(context, 'two@example.com');

// Pages of a flow that was not begun.
for (const path of ['confirm', 'reset', 'verify', 'done']) {
  await page.goto(`${origin}/account/${path}`);
  assert.equal(at(page), '/account/forgot', path);
}
// A mail's link in a browser that did not ask: what to do stands there, and the code is not left in the address.
const elsewhere = await (await visitor()).newPage();
await elsewhere.goto(`${origin}/account/confirm#code=7K3QM-X9T2B`);
assert.equal(at(elsewhere), '/account/forgot');
assert.ok(await elsewhere.locator('[data-code-elsewhere]').isVisible());
assert.ok(!elsewhere.url().includes('#'));
await look(elsewhere, 'forgot-elsewhere');
await elsewhere.context().close();

// Pasting: the code is found in what was copied, however it is written.
const first = await forgot(page, 'one@example.com');
const code = await mailedCode(context, 'one@example.com', first);
const bare = code.replace('-', '');
await page.bringToFront();
const pieces = [code.replace('-', ' '), ` ${code.toLowerCase()}\n`, `screen that shows ${first}:\n\n    ${code}\n\nIt works once`, `@localhost #${bare}`, bare.replace(/(..)/g, '$1 ')];
for (const text of pieces) {
  await page.fill('#code', '');
  await page.evaluate((piece) => navigator.clipboard.writeText(piece), text);
  await page.focus('#code');
  await page.keyboard.press('Control+V');
  // Pasting ends some time after the key is up.
  await page.waitForFunction(() => document.querySelector('#code').value !== '');
  assert.equal(await page.inputValue('#code'), code, JSON.stringify(text));
}

// Two tabs for two accounts: each code does its work, in either tab.
const other = await context.newPage();
const second = await forgot(other, 'two@example.com');
const otherCode = await mailedCode(context, 'two@example.com', second);
await page.bringToFront();
await submit(page, 'Continue');
assert.equal(at(page), '/account/reset');
assert.match(await page.locator('.lede').textContent(), /one@example\.com/);

// Reload and back: the page stays, and back leads forward again, since the code has done its work.
await page.reload();
assert.equal(await heading(page), 'Choose a new password');
await page.fill('#password', NEW_PASSWORD);
await submit(page, 'Change password');
assert.equal(at(page), '/account/done');
await page.reload();
assert.equal(await heading(page), 'Your password was changed');
await page.goBack();
assert.equal(at(page), '/account/forgot', 'what is finished is not done twice');

// The other tab goes on where it was; asked too late, it begins again and says why.
await other.bringToFront();
await other.goto(`${origin}/account/forgot`);
await advance(2);
const third = await forgot(other, 'two@example.com');
assert.notEqual(third, second);
await other.fill('#code', otherCode);
await submit(other, 'Continue');
assert.equal(at(other), '/account/reset', 'the first code is as good as the second');
await other.goBack();
await other.waitForURL('**/account/confirm').catch(() => {});
await other.goto(`${origin}/account/confirm`);
assert.equal(at(other), '/account/reset', 'back leads to the step that is due');
await advance(11);
await other.fill('#password', NEW_PASSWORD);
await submit(other, 'Change password');
assert.equal(at(other), '/account/forgot');
assert.match(await other.locator('#notice').textContent(), /^Your time ran out/);
assert.equal(await other.inputValue('#email'), 'two@example.com');
await look(other, 'forgot-expired');
await other.close();

// An expired code, and asking for another.
const fourth = await forgot(page, 'one@example.com');
const old = await mailedCode(context, 'one@example.com', fourth);
await advance(11);
await page.fill('#code', old);
await submit(page, 'Continue');
assert.match(await page.locator('#code-error').textContent(), /wrong, used, or too old/);
await page.reload();
await page.goto(`${origin}/account/confirm`);
assert.equal(await heading(page), 'The code has expired');
await look(page, 'confirm-over');
await submit(page, 'Send another code');
assert.match(await notice(), /^Asked again\. Use the mail that says /);
await look(page, 'confirm-resent');
const fifth = await reference(page);
assert.notEqual(fifth, fourth);
await page.fill('#code', await mailedCode(context, 'one@example.com', fifth));
await submit(page, 'Continue');
assert.equal(at(page), '/account/reset');

// Without cookies a form is out of date, says so, and changes nothing.
await page.goto(`${origin}/account/forgot`);
await context.clearCookies();
await page.fill('#email', 'one@example.com');
await submit(page, 'Send the code');
assert.equal(await heading(page), 'This form is out of date');
await look(page, 'error-stale');
await page.getByRole('link', { name: 'Open the page again' }).click();
await page.waitForURL('**/account/forgot');

// A form that a page of another origin sends.
const evil = `<!doctype html><title>x</title><form method="post" action="${origin}/account/forgot"><input name="email" value="one@example.com"><button>Win</button></form>`;
await page.route('**/dev/mailbox/evil', (route) => route.fulfill({ contentType: 'text/html', body: evil }));
await page.goto(`${mailbox}/dev/mailbox/evil`);
await submit(page, 'Win');
assert.equal(await heading(page), 'Not allowed');
await look(page, 'error-403');

// What browsers and password managers ask for.
await page.goto(`${origin}/.well-known/change-password`);
assert.equal(at(page), '/account/forgot');
await done();
