// The whole life with JavaScript: register, confirm, sign in, forget, recover; every page and refusal on the way is looked at.
import { NEW_PASSWORD, PASSWORD, assert, at, done, forgot, heading, look, mailbox, mailedCode, origin, reference, signIn, submit, visitor } from './lib.mjs';

const email = 'ada.lovelace@example.com';
const context = await visitor();
const page = await context.newPage();
// A page's own focus comes with its first rendering, which may be after it has loaded.
const focused = async () => {
  await page.waitForFunction(() => document.activeElement.id !== '').catch(() => {});
  return page.evaluate(() => document.activeElement.id);
};

// The start page shows the way to everything, the mailbox included.
await page.goto(`${origin}/`);
await look(page, 'start');
assert.equal(await page.getByRole('link', { name: 'mailbox', exact: true }).getAttribute('href'), `${mailbox}/dev/mailbox`);
await page.getByRole('link', { name: 'Create an account' }).first().click();
await page.waitForURL('**/account/register');
await look(page, 'register');

// Both things that are wrong are said at once, at their fields; the first has the focus; what was typed is there, passwords are not.
await page.fill('#email', 'ada.lovelace');
await page.fill('#password', 'password1');
await page.locator('.strength', { hasText: 'known from data breaches' }).waitFor();
await submit(page, 'Create account');
assert.equal(await focused(), 'email');
assert.equal(await page.inputValue('#email'), 'ada.lovelace');
assert.equal(await page.inputValue('#password'), '');
assert.match(await page.title(), /^Error: /);
await look(page, 'register-wrong');
await page.fill('#email', email);
await page.fill('#password', PASSWORD);
await page.click('summary');
await page.fill('#firstName', 'Ada');
await page.fill('#phone', '030 1234');
await submit(page, 'Create account');
assert.equal(await focused(), 'phone');
await look(page, 'register-phone');
await page.fill('#password', PASSWORD);
await page.fill('#phone', '+49 (30) 123-456');
await page.locator('.strength', { hasText: 'Good' }).waitFor();
await look(page, 'register-filled');
await submit(page, 'Create account');

// The code confirms the address; the address is filled in for the sign-in.
assert.equal(at(page), '/account/verify');
await look(page, 'verify');
await page.fill('#code', 'AAAAA-BBBBB');
await submit(page, 'Confirm address');
assert.equal(await focused(), 'code');
await look(page, 'verify-wrong');
await page.fill('#code', await mailedCode(context, email, await reference(page)));
await submit(page, 'Confirm address');
assert.equal(at(page), '/account/login');
assert.equal(await page.inputValue('#email'), email);
assert.equal(await focused(), 'password');
await look(page, 'login-confirmed');
await page.fill('#password', 'a wrong password');
await submit(page, 'Sign in');
assert.equal(await focused(), 'password');
await look(page, 'login-wrong');
await page.fill('#password', PASSWORD);
await submit(page, 'Sign in');
assert.equal(await heading(page), 'Your account');
assert.equal(await page.getByText('+4930123456').count(), 1);
await look(page, 'account');

// Forget: an empty form and what is no address come back.
await page.getByRole('link', { name: 'Set a new one' }).click();
await page.waitForURL('**/account/forgot');
await look(page, 'forgot');
await submit(page, 'Send the code');
await look(page, 'forgot-wrong');

// Confirm: a wrong code comes back with what was typed; the countdown runs.
const said = await forgot(page, email);
await look(page, 'confirm');
await page.getByRole('button', { name: /^Send another code in \d+ s$/ }).waitFor();
await page.fill('#code', 'aaaaa bbbbb');
assert.equal(await page.inputValue('#code'), 'AAAAA-BBBBB');
await submit(page, 'Continue');
assert.match(await page.locator('#code-error').textContent(), new RegExp(`Use the mail that says ${said}`));
assert.equal(await page.inputValue('#code'), 'AAAAA-BBBBB');
await look(page, 'confirm-wrong');

// The mail's link fills the code in from behind the #, and confirms nothing by itself.
const code = await mailedCode(context, email, said);
await page.goto(`${origin}/account/confirm#code=${code}`);
assert.equal(await page.inputValue('#code'), code);
assert.ok(!page.url().includes('#'), 'the code is not left in the address');
await look(page, 'confirm-filled');
await submit(page, 'Continue');
assert.equal(at(page), '/account/reset');
await look(page, 'reset');

// A weak password comes back and the proof is kept.
await page.fill('#password', 'lovelace-ada');
await page.locator('.strength[data-ok=false]', { hasText: 'too easy' }).waitFor();
await look(page, 'reset-weak');
await submit(page, 'Change password');
assert.equal(await focused(), 'password');
await look(page, 'reset-wrong');
await page.fill('#password', NEW_PASSWORD);
await page.getByRole('button', { name: 'Show password' }).click();
await page.locator('.strength[data-ok=true]').waitFor();
await look(page, 'reset-strong');
await submit(page, 'Change password');
assert.equal(at(page), '/account/done');
await look(page, 'done');

// The old session is gone, the old password too, the new one works.
await page.goto(`${origin}/account`);
assert.equal(at(page), '/account/login');
await look(page, 'login');
await signIn(page, email, PASSWORD);
assert.equal(at(page), '/account/login');
await signIn(page, email, NEW_PASSWORD);
assert.equal(await heading(page), 'Your account');

// Addresses that lead nowhere.
await page.goto(`${origin}/account/nothing`);
assert.equal(await heading(page), 'There is no such page');
await look(page, 'error-404');
await done();
