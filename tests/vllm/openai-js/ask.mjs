// Asks a server through OpenAI's JavaScript client, in every way, and prints what it said.
import OpenAI from "openai";

const chunks = [];
for await (const chunk of process.stdin) chunks.push(chunk);
const { baseURL, model, questions } = JSON.parse(Buffer.concat(chunks).toString("utf8"));
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });

async function chat(question) {
  const messages = [{ role: "user", content: question }];
  const asked = { model, messages, temperature: 0, max_tokens: 60 };
  const whole = (await client.chat.completions.create(asked)).choices[0];
  let text = "";
  let reason = null;
  for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
    text += chunk.choices[0]?.delta?.content ?? "";
    reason = chunk.choices[0]?.finish_reason ?? reason;
  }
  return { whole: [whole.message.content, whole.finish_reason], streamed: [text, reason] };
}

async function respond(question) {
  const asked = { model, input: question, temperature: 0, max_output_tokens: 60 };
  const whole = await client.responses.create(asked);
  let text = "";
  let last = null;
  for await (const event of await client.responses.create({ ...asked, stream: true })) {
    if (event.type === "response.output_text.delta") text += event.delta;
    last = event.response ?? last;
  }
  const end = (response) => response.incomplete_details?.reason ?? response.status;
  return { whole: [whole.output_text, end(whole)], streamed: [text, end(last)] };
}

const answers = [];
for (const question of questions) {
  answers.push({ chat: await chat(question), responses: await respond(question) });
}
console.log(JSON.stringify(answers));
