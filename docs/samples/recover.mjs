// Usage: NEW_PASSWORD=… node recover.mjs http://localhost:9000 ada@example.com   (Node.js 18 or newer)
import { createInterface } from "node:readline/promises";

const [base, email] = process.argv.slice(2);
const password = process.env.NEW_PASSWORD;

async function call(name, fields) {
  const answer = await fetch(`${base}/api/v1/user/${name}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(fields),
    signal: AbortSignal.timeout(20_000),
  });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.message);
  return body;
}

const input = createInterface({ input: process.stdin });
try {
  const { reference } = await call("forgot-password", { email });
  console.log(`Type the code from the mail marked ${reference}:`);
  const code = await input.question("");

  // Keep the grant: it is what ties the next call to this one.
  const confirmed = await call("confirm-otp-reset", { resetToken: code.trim(), proof: "grant" });
  const done = await call("password-reset", {
    email: confirmed.email,
    password,
    resetGrant: confirmed.resetGrant,
  });
  console.log(done.message);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
} finally {
  input.close();
}
