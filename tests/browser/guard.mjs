// The guard itself: a page that calls another host, or that its own policy forbids something, must fail a run.
import { assert, done, look, origin, problems, visitor } from './lib.mjs';

const context = await visitor();
const page = await context.newPage();
const html = (body) => ({ contentType: 'text/html', body: `<!doctype html><title>x</title>${body}` });
await page.route('**/foreign', (route) => route.fulfill(html('<img src="http://elsewhere.example/x.png">')));
await page.goto(`${origin}/foreign`);
assert.ok(problems.some((problem) => problem.startsWith('foreign host: http://elsewhere.example/')), 'a foreign host is noticed');

problems.length = 0;
await page.goto(`${origin}/account/login`);
await page.evaluate(() => {
  const script = document.createElement('script');
  script.textContent = 'window.ran = true';
  document.body.append(script);
});
await page.waitForFunction(() => true);
assert.equal(await page.evaluate(() => window.ran), undefined, 'nothing inline runs');
assert.ok(problems.some((problem) => problem.includes('Content Security Policy')), 'what the policy forbids is noticed');
problems.length = 0;

// So is what axe finds, and a page that is wider than a small window.
await page.route('**/bad', (route) => route.fulfill(html('<img src="data:," style="width:500px;height:9px">')));
await page.goto(`${origin}/bad`);
await look(page, 'guard-bad');
assert.ok(problems.some((problem) => problem.includes('image-alt')), 'what axe finds is noticed');
assert.ok(problems.some((problem) => problem.includes('too wide at 320 px')), 'a page too wide is noticed');
problems.length = 0;
await done();
