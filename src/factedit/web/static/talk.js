// Talking to the server: JSON in, JSON out; what touches the model is a job that is asked how far it is.

let lost = () => {};
export function whenLost(listener) { lost = listener; }

async function answer(path, options) {
  let reply;
  try {
    reply = await fetch(path, { credentials: "same-origin", ...options });
  } catch {
    lost(true);
    throw new Lost("The server does not answer. This page picks up again when it is back.");
  }
  lost(false);
  let value = {};
  try { value = await reply.json(); } catch { /* no JSON: the status says it */ }
  if (!reply.ok) throw new Error(value.error ?? `The server answered ${reply.status}.`);
  return value;
}

class Lost extends Error {}
export class Stopped extends Error {}

export function get(path) { return answer(path); }

export function post(path, value) {
  return answer(`/api/${path}`, {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(value),
  });
}

const pause = (ms) => new Promise((done) => setTimeout(done, ms));

// Run a job to its end; `told` is given its state on the way.
export async function run(path, value, told = () => {}) {
  const begun = await post(path, value);
  return begun.job ? follow(begun.job, told) : begun;
}

export async function follow(name, told = () => {}) {
  let wait = 60;
  for (;;) {
    let job;
    try {
      job = await get(`/api/jobs/${name}`);
    } catch (error) {
      if (!(error instanceof Lost)) throw error;
      await pause(1500);
      continue;
    }
    told(job);
    if (job.state === "done") return job.result;
    if (job.state === "failed") throw new Error(job.error);
    if (job.state === "cancelled") throw new Stopped("Cancelled. The model is as it was.");
    await pause(wait);
    wait = Math.min(1.4 * wait, pauseFor(job));
  }
}

// Milliseconds until a job is asked again: rarely while much is left, since each question takes time from it, and soon
// when its end is near. `benchmarks/page.py` asks in the same way.
function pauseFor(job) {
  return job.seconds_left === null ? 400 : Math.min(1000, Math.max(60, 1000 * job.seconds_left / 3));
}

export function cancel(name) { return post("cancel", { job: name }); }
