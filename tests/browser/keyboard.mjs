// The same with the keyboard alone, counted: what it takes from /account/forgot to "Your password was changed".
import { NEW_PASSWORD, account, assert, at, done, heading, mailedCode, origin, reference, visitor } from './lib.mjs';

const email = 'grace@example.com';
const context = await visitor();
await account(context, email);
const page = await context.newPage();
let keys = 0;
const press = async (key) => { keys += 1; await page.keyboard.press(key); };
const enter = async (path) => { keys += 1; await Promise.all([page.waitForURL(`**${path}`), page.keyboard.press('Enter')]); };

// Each page has its field focused already; typing an address or a password counts as one act.
const began = performance.now();
await page.goto(`${origin}/account/forgot`);
await page.keyboard.type(email);
await enter('/account/confirm');
const code = await mailedCode(context, email, await reference(page));
await page.bringToFront();
await page.evaluate((text) => navigator.clipboard.writeText(text), code);
await press('Control+V');
await page.waitForFunction((text) => document.querySelector('#code').value === text, code);
await enter('/account/reset');
await page.keyboard.type(NEW_PASSWORD);
await enter('/account/done');
assert.equal(await heading(page), 'Your password was changed');
console.log(`keys beside typing: ${keys}; ${Math.round(performance.now() - began)} ms, the machine's part alone`);
assert.equal(keys, 4, 'Enter, paste, Enter, Enter');

// On from there: one link, which the skip link and the brand stand before.
for (let tab = 0; tab < 3; tab += 1) await press('Tab');
await enter('/account/login');
assert.equal(at(page), '/account/login');
await done();
