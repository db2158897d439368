// The generated TypeScript client does what a user does: submit a task, watch it to its end, read its result.
import { createClient } from './generated/client';
import { getTask, submitTask, watchTask } from './generated/sdk.gen';
import type { Submission, Task } from './generated/types.gen';

const client = createClient({ baseUrl: process.env.TASK_RUNNER_URL });
const terminal = ['COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED'];

type Event = { name: string; data: Record<string, unknown> };

function check(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(`typescript client: ${what}`);
}

/** Every event of a task; the server closes the stream when the task has ended. */
async function watch(id: number): Promise<Event[]> {
  const events: Event[] = [];
  const { stream } = await watchTask({
    client,
    path: { id },
    // The end of the task is the end of the stream; without this the client would connect again.
    sseMaxRetryAttempts: 1,
    onSseEvent: ({ event, data }) => {
      events.push({ name: event ?? 'message', data: data as Record<string, unknown> });
    },
  });
  // The events are seen by the callback, which knows their names.
  for await (const _ of stream);
  return events;
}

async function submit(body: Submission): Promise<Task> {
  const { data, error, response } = await submitTask({ client, body });
  check(response.status === 201 && data !== undefined, `the submission was answered ${JSON.stringify(error)}`);
  const location = response.headers.get('location') ?? '';
  check(location.endsWith(`/api/v1/tasks/${data.id}`), `Location is ${location}`);
  return data;
}

/** Watches a task to its end and reads it. */
async function finish(task: Task): Promise<{ task: Task; events: Event[] }> {
  const events = await watch(task.id);
  const states = events.filter(({ name }) => name === 'state').map(({ data }) => String(data.status));
  check(terminal.includes(states.at(-1) ?? ''), `the stream ended without a last state: ${JSON.stringify(events)}`);
  check(!states.slice(0, -1).some((state) => terminal.includes(state)), `a state after the end: ${states}`);
  const { data: read } = await getTask({ client, path: { id: task.id } });
  check(read?.status === 'COMPLETED', `task ${task.id} ended as ${JSON.stringify(read)}`);
  return { task: read, events };
}

/** Three things that every user of the API does. */
async function main(): Promise<void> {
  const text = await finish(await submit({ prompt: 'Explain quantum computing', priority: 5 }));
  check(typeof text.task.result === 'string' && text.task.result !== '', `the text is ${text.task.result}`);
  const chunks = text.events.filter(({ name }) => name === 'chunk').map(({ data }) => data.text).join('');
  check(chunks === text.task.result, `the chunks make ${chunks}, the result is ${text.task.result}`);

  const calculation = { type: 'demo.simple_calculation', input: { x: 10, y: 20, operation: 'add' } };
  const { task } = await finish(await submit(calculation));
  check(task.result === 30, `10 + 20 = ${JSON.stringify(task.result)}`);

  const refused = await submitTask({ client, body: { prompt: 'x', priority: 10 } });
  check(refused.response.status === 422, `priority 10 was answered ${refused.response.status}`);
  check(JSON.stringify(refused.error).includes('priority'), `the refusal names no field: ${JSON.stringify(refused.error)}`);

  console.log('typescript client: submitted, watched to the end, read the results');
}

main().catch((error: unknown) => {
  console.error(error);
  process.exitCode = 1;
});
