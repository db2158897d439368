"""The generated Python client does what a user does: submit a task, watch it to its end, read its result.

The events of a task are a stream, which the generator does not know: `watch` is the helper that a user writes.
"""

import json
import os
import sys
from collections.abc import Iterator
from http import HTTPStatus

from task_runner_client import Client
from task_runner_client.api.tasks import get_task, submit_task
from task_runner_client.models import Problem, Status, Submission, Task

TERMINAL = {"COMPLETED", "FAILED", "CANCELLED", "EXPIRED"}


def check(holds: bool, what: str) -> None:
    """An assert that `python -O` keeps."""
    if not holds:
        sys.exit(f"python client: {what}")


def watch(client: Client, task_id: int) -> Iterator[tuple[str, dict]]:
    """The name and the data of every event of a task; the server closes the stream when the task has ended."""
    name, data = "message", []
    with client.get_httpx_client().stream("GET", f"/api/v1/tasks/{task_id}/events") as response:
        response.raise_for_status()
        kind = response.headers["content-type"]
        check(kind.startswith("text/event-stream"), f"the events are of type {kind}")
        for line in response.iter_lines():
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line and data:
                yield name, json.loads("\n".join(data))
            if not line:
                name, data = "message", []
            elif field == "event":
                name = value
            elif field == "data":
                data.append(value)


def submit(client: Client, submission: Submission) -> Task:
    """Submits and answers the task, which the server must have stored."""
    response = submit_task.sync_detailed(client=client, body=submission)
    check(response.status_code == HTTPStatus.CREATED, f"the submission was answered {response}")
    check(isinstance(response.parsed, Task), f"the answer is no task: {response.parsed}")
    location = response.headers.get("location", "")
    check(location.endswith(f"/api/v1/tasks/{response.parsed.id}"), f"Location is {location!r}")
    return response.parsed


def finish(client: Client, task: Task) -> tuple[Task, list[tuple[str, dict]]]:
    """Watches a task to its end and reads it: a task that has ended is completed."""
    events = list(watch(client, task.id))
    states = [data["status"] for name, data in events if name == "state"]
    check(bool(states) and states[-1] in TERMINAL, f"the stream ended without a last state: {events}")
    check(not TERMINAL & set(states[:-1]), f"there is a state after the end: {states}")
    read = get_task.sync(client=client, id=task.id)
    check(isinstance(read, Task), f"task {task.id} cannot be read: {read}")
    check(read.status == Status.COMPLETED, f"task {task.id} ended as {read.status}: {read}")
    check(states[-1] == "COMPLETED", f"the last state is {states[-1]}, the task is {read.status}")
    return read, events


def main() -> None:
    """Three things that every user of the API does."""
    with Client(base_url=os.environ["TASK_RUNNER_URL"], timeout=60) as client:
        task, events = finish(client, submit(client, Submission(prompt="Explain quantum computing", priority=5)))
        check(isinstance(task.result, str) and task.result != "", f"the text is {task.result!r}")
        text = "".join(data["text"] for name, data in events if name == "chunk")
        check(text == task.result, f"the chunks make {text!r}, the result is {task.result!r}")

        calculation = Submission(
            type_="demo.simple_calculation", input_={"x": 10, "y": 20, "operation": "add"}
        )
        task, _ = finish(client, submit(client, calculation))
        check(task.result == 30, f"10 + 20 = {task.result!r}")

        refused = submit_task.sync_detailed(client=client, body=Submission(prompt="x", priority=10))
        check(refused.status_code == HTTPStatus.UNPROCESSABLE_ENTITY, f"priority 10 was answered {refused}")
        check(isinstance(refused.parsed, Problem), f"the refusal is no problem: {refused.parsed}")
        check("priority" in str(refused.parsed.to_dict()), f"the refusal names no field: {refused.parsed}")
    print("python client: submitted, watched to the end, read the results")


if __name__ == "__main__":
    main()
