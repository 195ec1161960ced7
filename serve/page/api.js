// Requests to the server that sent this page, and no other.

export class ApiError extends Error {}

const headers = (key) => ({ "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) });

async function refused(answer) {
  const told = await answer.json().catch(() => null);
  return new ApiError(told?.error?.message ?? `the server answered with status ${answer.status}`);
}

export async function models(key) {
  const answer = await fetch("/v1/models", { headers: headers(key) });
  if (!answer.ok) throw await refused(answer);
  return (await answer.json()).data;
}

// Events of a streamed answer: {frame}, {text}, {thinking}, {usage}, {finish, warnings}. Throws ApiError for what the server
// says, and another Error where the connection breaks.
export async function* chat(body, key, signal) {
  const streamed = { ...body, stream: true, stream_options: { include_usage: true } };
  const answer = await fetch("/v1/chat/completions", {
    method: "POST", headers: headers(key), body: JSON.stringify(streamed), signal,
  });
  if (!answer.ok) throw await refused(answer);
  for await (const data of events(answer.body)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(chunk.error.message);
    if (chunk["dgemma.frame"]) yield { frame: chunk["dgemma.frame"] };
    if (chunk.usage) yield { usage: chunk.usage };
    for (const choice of chunk.choices) {
      if (choice.delta.reasoning) yield { thinking: choice.delta.reasoning };
      if (choice.delta.content) yield { text: choice.delta.content };
      if (choice.finish_reason) yield { finish: choice.finish_reason, warnings: choice.warnings ?? [] };
    }
  }
  throw new Error("the connection broke");
}

// Data of server-sent events; comments, which keep the connection alive, are left out.
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const lines = held.slice(0, end).split("\n");
      held = held.slice(end + 2);
      const data = lines.filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data) yield data;
    }
  }
}
