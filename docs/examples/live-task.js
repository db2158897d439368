// Submits a task, shows its progress and its text as it is written, and cancels it. No library: fetch and EventSource.
'use strict';

const api = document.querySelector('meta[name=api]').content;
const part = (id) => document.getElementById(id);
const ENDED = ['COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED'];

let events = null; // the EventSource of the task that is shown

/** Calls the API; a refusal becomes an Error with the server's own words (problem+json). */
async function call(method, path, body) {
  const answer = await fetch(api + path, {
    method,
    headers: body ? { 'Content-Type': 'application/json' } : {},
    body: body && JSON.stringify(body),
  });
  const data = await answer.json();
  if (!answer.ok) throw new Error(data.detail || data.title || `the server answered ${answer.status}`);
  return data;
}

function complain(error) {
  part('problem').textContent = error ? error.message : '';
  part('problem').hidden = !error;
}

function showState(status) {
  part('status').textContent = status;
  const ended = ENDED.includes(status);
  part('cancel').disabled = ended;
  part('submit').disabled = !ended;
}

function showProgress({ progress, message }) {
  part('progress').value = progress;
  part('message').textContent = message || '';
}

/** Follows a task until it has ended. EventSource reconnects by itself and says which event was the last. */
function follow(id) {
  if (events) events.close();
  part('task').hidden = false;
  part('id').textContent = id;
  for (const name of ['text', 'summary', 'message']) part(name).textContent = '';
  part('progress').value = 0;
  showState('PENDING');

  events = new EventSource(`${api}/tasks/${id}/events`);
  events.addEventListener('progress', (event) => showProgress(JSON.parse(event.data)));
  events.addEventListener('chunk', (event) => {
    part('text').append(JSON.parse(event.data).text);
  });
  // The task was begun anew, such as after a crash: so is its text.
  events.addEventListener('attempt_reset', () => { part('text').textContent = ''; });
  events.addEventListener('state', async (event) => {
    const { status } = JSON.parse(event.data);
    showState(status);
    if (!ENDED.includes(status)) return;
    events.close();
    try {
      summarize(await call('GET', `/tasks/${id}`));
    } catch (error) {
      complain(error);
    }
  });
}

/** What the task came to: its result is the truth, whatever was streamed. */
function summarize(task) {
  if (typeof task.result === 'string') part('text').textContent = task.result;
  if (task.status === 'COMPLETED') {
    showProgress({ progress: 100 });
    part('summary').textContent = `Written in ${task.processing_time.toFixed(1)} s, attempt ${task.attempt}.`;
  } else {
    part('summary').textContent = task.error ? `${task.error.code}: ${task.error.message}` : '';
  }
}

part('form').addEventListener('submit', async (event) => {
  event.preventDefault();
  complain(null);
  try {
    const task = await call('POST', '/tasks', { prompt: part('prompt').value });
    location.hash = task.id; // so that a reload finds it
    follow(task.id);
  } catch (error) {
    complain(error);
  }
});

part('cancel').addEventListener('click', async () => {
  complain(null);
  try {
    await call('POST', `/tasks/${part('id').textContent}/cancel`);
  } catch (error) {
    complain(error);
  }
});

if (/^#\d+$/.test(location.hash)) follow(location.hash.slice(1));
