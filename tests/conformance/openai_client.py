"""Asks the OpenAI routes of an endpoint with the unmodified official client, and prints what it got as one JSON document.

usage: openai_client.py BASE_URL [MODEL…]

With models, only the failures of a chat with each of them.
"""

import asyncio
import json
import sys

import openai

MODEL = "SmolLM2-135M-Instruct"
QUESTION = [{"role": "user", "content": "What is the capital of Italy?"}]
CHAT = {"model": MODEL, "messages": QUESTION, "max_tokens": 3, "temperature": 0}
TEXT = {"model": MODEL, "prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}

requests = 0


def count(request):
    global requests
    requests += 1


# Retries are on, as they are for everybody who does not switch them off.
client = openai.OpenAI(base_url=sys.argv[1], api_key="any", http_client=openai.DefaultHttpxClient(event_hooks={"request": [count]}))


def failure(call, *args, **changes):
    """The error that a user of the client sees, and after how many requests."""
    before = requests
    try:
        answer = call(*args, **changes)
        return {"error": None, "answer": str(answer)}
    except openai.APIStatusError as error:
        return {
            "error": type(error).__name__,
            "status": error.status_code,
            "type": error.type,
            "message": error.body["message"],
            "requests": requests - before,
        }


def chat(**changes):
    return client.chat.completions.create(**{**CHAT, **changes})


def completion(**changes):
    return client.completions.create(**{**TEXT, **changes})


def failures_of(models):
    seen = {}
    for model in models:
        seen[model] = failure(chat, model=model)
        seen[f"{model}, streamed"] = failure(lambda: list(chat(model=model, stream=True)))
    return seen


async def asynchronous():
    async with openai.AsyncOpenAI(base_url=sys.argv[1], api_key="any") as other:
        stream = await other.chat.completions.create(**CHAT, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])


def everything():
    seen = {"models": [model.id for model in client.models.list()]}

    whole = chat()
    seen["chat"] = whole.choices[0].message.content
    seen["chat_end"] = whole.choices[0].finish_reason
    seen["chat_usage"] = whole.usage.completion_tokens
    chunks = list(chat(stream=True, stream_options={"include_usage": True}))
    seen["chat_stream"] = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    seen["chat_stream_chunks"] = len(chunks)
    seen["chat_stream_role"] = chunks[0].choices[0].delta.role
    seen["chat_stream_end"] = chunks[-2].choices[0].finish_reason
    seen["chat_stream_usage"] = chunks[-1].usage.completion_tokens
    seen["chat_async"] = asyncio.run(asynchronous())

    whole = completion()
    seen["completion"] = whole.choices[0].text
    seen["completion_stream"] = "".join(chunk.choices[0].text for chunk in completion(stream=True))
    stopped = completion(stop=["."]).choices[0]
    seen["stopped"] = [stopped.text, stopped.finish_reason]
    chunks = list(completion(stop=["."], stream=True))
    seen["stopped_stream"] = ["".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason]

    seen["failures"] = {
        "temperature": failure(chat, temperature=9),
        "temperature, streamed": failure(lambda: list(chat(temperature=9, stream=True))),
        "too many tokens": failure(completion, max_tokens=8192),
        "role": failure(chat, messages=[{"role": "nobody", "content": "?"}]),
        "model": failure(chat, model="gpt-5"),
        "model, streamed": failure(lambda: list(completion(model="gpt-5", stream=True))),
        "route": failure(client.embeddings.create, model=MODEL, input="a"),
        "form": failure(client.audio.transcriptions.create, model=MODEL, file=("a.wav", b"RIFF")),
    }
    return seen


models = sys.argv[2:]
print(json.dumps(failures_of(models) if models else everything()))
