// The whole recovery without JavaScript.
import { NEW_PASSWORD, PASSWORD, account, assert, at, done, forgot, heading, mailedCode, origin, signIn, submit, visitor } from './lib.mjs';

const email = 'mary@example.com';
const context = await visitor({ javaScriptEnabled: false });
await account(context, email);
const page = await context.newPage();
await signIn(page, email);
assert.equal(await heading(page), 'Your account');

const said = await forgot(page, email);

// Asked again too soon: the page says so, and which mail counts.
await submit(page, 'Send another code');
assert.equal(at(page), '/account/confirm');
assert.match(await page.locator('#notice').textContent(), new RegExp(`No new mail yet: use the one that says ${said}`));

// A code as people copy it.
const code = await mailedCode(context, email, said);
await page.fill('#code', ` ${code.toLowerCase().replace('-', ' ')} `);
await submit(page, 'Continue');
assert.equal(at(page), '/account/reset');

await page.fill('#password', 'short');
await submit(page, 'Change password');
assert.equal(await page.locator('#password-error').count(), 1);
assert.equal(await page.inputValue('#password'), '');
await page.fill('#password', NEW_PASSWORD);
await submit(page, 'Change password');
assert.equal(await heading(page), 'Your password was changed');

await page.goto(`${origin}/account`);
assert.equal(at(page), '/account/login');
await signIn(page, email, PASSWORD);
assert.equal(await page.locator('#password-error').count(), 1);
await signIn(page, email, NEW_PASSWORD);
assert.equal(await heading(page), 'Your account');
await submit(page, 'Sign out');
assert.equal(await page.locator('#notice').textContent(), 'You are signed out.');
await done();
