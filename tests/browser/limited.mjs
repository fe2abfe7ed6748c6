// Wrong codes until the budget is spent: the page says so and for how long, a right code waits its time, and then it works.
import { account, advance, assert, at, done, forgot, look, mailedCode, submit, visitor } from './lib.mjs';

const context = await visitor();
const page = await context.newPage();
await account(context, 'ada@example.com');
const tag = await forgot(page, 'ada@example.com');
const code = await mailedCode(context, 'ada@example.com', tag);
await page.bringToFront();

// What this network may try within ten minutes (accounts.budgets.codes_network).
for (let n = 0; n < 20; n += 1) {
  await page.fill('#code', '00000-0000' + 'ABCDEFGHJKMNPQRSTVWX'[n]);
  await submit(page, 'Continue');
  assert.equal(at(page), '/account/confirm', `try ${n}`);
  assert.ok(await page.locator('#code[aria-invalid="true"]').isVisible(), `try ${n} is told at its field`);
}
await page.fill('#code', code);
await submit(page, 'Continue');
assert.equal(at(page), '/account/confirm', 'even the right code waits');
assert.match(await page.locator('main').textContent(), /Too many tries\. Wait \d+ minutes?, then try again\./);
await look(page, 'confirm-limited');

// The budget is back; the code that was mailed has died meanwhile, and a new one works at once.
await advance(12);
const again = await forgot(page, 'ada@example.com');
const fresh = await mailedCode(context, 'ada@example.com', again);
await page.bringToFront();
await page.fill('#code', fresh);
await submit(page, 'Continue');
assert.equal(at(page), '/account/reset');
await done();
