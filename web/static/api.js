// Calls of the API by cookie: renews the session where it ran out, and turns a problem into one sentence.
import { renewed } from "./session.js";

const language = document.documentElement.lang;

// Answers {body, etag}. Throws an Error that says in words what was refused.
export async function call(method, path, body, headers = {}) {
  const send = () => fetch(path, {
    method,
    headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), "Accept-Language": language, ...headers },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  let answer = await send();
  if (answer.status === 401 && (await renewed())) answer = await send();
  const text = await answer.text();
  const isJSON = answer.headers.get("Content-Type")?.includes("json");
  const told = isJSON && text ? JSON.parse(text) : null;
  if (!answer.ok) throw new Error(sentence(answer.status, told));
  return { body: told, etag: answer.headers.get("ETag") };
}

function sentence(status, problem) {
  const flaws = problem?.errors?.map((flaw) => `${flaw.pointer}: ${flaw.detail}`).join("; ");
  return problem ? `${problem.title} ${flaws || problem.detail}` : String(status);
}
