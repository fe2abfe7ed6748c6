// Several devices: seen, ended one by one, and all at once.
import { account, assert, at, done, heading, look, origin, signIn, submit, visitor } from './lib.mjs';

const email = 'dora@example.com';
const desk = await visitor();
await account(desk, email);
const phone = await visitor({ userAgent: 'Mozilla/5.0 (iPhone; CPU iPhone OS 18_0 like Mac OS X) AppleWebKit/605.1.15 Version/18.0 Mobile/15E148 Safari/604.1' });
const tablet = await visitor({ userAgent: 'Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0' });
const pages = [];
for (const context of [phone, tablet, desk]) {
  const page = await context.newPage();
  await signIn(page, email);
  assert.equal(await heading(page), 'Your account');
  pages.push(page);
}
const [onPhone, onTablet, onDesk] = pages;
assert.equal(await onDesk.locator('.rows .badge').count(), 1);
await look(onDesk, 'account-sessions');

// Ended in one window, and once more in another that still shows it.
const again = await desk.newPage();
await again.goto(`${origin}/account`);
await submit(onDesk, 'End the session on Safari on iPhone, last seen now');
assert.equal(await onDesk.locator('#notice').textContent(), 'The session on Safari on iPhone was ended.');
await look(onDesk, 'account-ended');
await submit(again, 'End the session on Safari on iPhone, last seen now');
assert.equal((await again.locator('#problem').textContent()).trim(), 'That session had ended already.');
await look(again, 'account-problem');
await again.close();
await onPhone.reload();
assert.equal(at(onPhone), '/account/login');
assert.match(await onPhone.locator('#notice').textContent(), /^You were signed out/);
await onTablet.reload();
assert.equal(at(onTablet), '/account');

await submit(onDesk, 'Sign out everywhere');
assert.equal(at(onDesk), '/account/login');
assert.equal(await onDesk.locator('#notice').textContent(), 'You are signed out everywhere.');
await onTablet.reload();
assert.equal(at(onTablet), '/account/login');
// Back shows no page of before.
await onDesk.goBack();
assert.equal(at(onDesk), '/account/login');
await onDesk.goto(`${origin}/`);
await look(onDesk, 'start-signed-out');
await done();
