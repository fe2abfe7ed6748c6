// The developer's mailbox: by itself, filtered, in three views, copied from, cleared.
import { assert, done, look, mailbox, origin, visitor } from './lib.mjs';

const context = await visitor();
const page = await context.newPage();
await page.goto(`${mailbox}/dev/mailbox`);
await page.getByText('New ones appear by themselves.').waitFor();
await look(page, 'mailbox-empty');

// A mail appears while the page is open.
const register = (email) => page.request.post(`${origin}/api/v1/user/register`, { data: { email, password: 'correct horse battery' } });
assert.equal((await register('ada@example.com')).status(), 201);
await page.locator('#list li').waitFor();
await page.locator('#found').waitFor();
await look(page, 'mailbox');
assert.equal((await register('grace@example.com')).status(), 201);
await page.locator('#list li').nth(1).waitFor();
await page.locator('#mail bdi', { hasText: 'grace@example.com' }).waitFor();

// The copied code is the mail's.
await page.getByRole('button', { name: 'Copy the code' }).click();
await page.getByText('Copied.').waitFor();
const copied = await page.evaluate(() => navigator.clipboard.readText());
assert.equal(copied, await page.locator('#found').textContent());

// Source and HTML. The frame runs nothing and loads nothing.
await page.getByRole('link', { name: 'Source' }).click();
await page.getByText('Auto-Submitted: auto-generated').waitFor();
await look(page, 'mailbox-source');
await page.getByRole('link', { name: 'HTML', exact: true }).click();
await page.frameLocator('iframe').getByText(copied, { exact: true }).first().waitFor();
await look(page, 'mailbox-html');

// Of one address, compared as addresses are; of nobody.
await page.goto(`${mailbox}/dev/mailbox`);
await page.fill('#to', 'ADA@Example.com');
await page.getByRole('button', { name: 'Show' }).click();
await page.waitForURL('**to=ADA*');
assert.equal(await page.locator('#list li').count(), 1);
await page.goto(`${mailbox}/dev/mailbox?to=nobody@example.com`);
await look(page, 'mailbox-nobody');

await page.goto(`${mailbox}/dev/mailbox`);
await page.getByRole('button', { name: 'Clear the mailbox' }).click();
await page.getByText('No mails yet.').waitFor();
await done();
