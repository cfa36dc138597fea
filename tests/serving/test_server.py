"""The server as its clients see it: the openai package, lm_eval, and plain HTTP."""

import concurrent.futures
import json
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from tests.serving.conftest import KEY, PAIRS, TEMPLATE

openai = pytest.importorskip("openai")

SOURCE = PAIRS[0][0]


@pytest.fixture(scope="module")
def client(running):
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=KEY, max_retries=0)


def request(running, path, body=None, method=None, key=KEY, data=None):
    """Returns the status, the headers and the body of an answer."""
    data = data if data is not None else None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
    found = urllib.request.Request(running.url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(found, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_a_prefix_answers_what_it_generates_alone(running, client):
    for name, tuned in running.tuned.items():
        answer = client.completions.create(model=name, prompt=SOURCE, max_tokens=12, temperature=0)
        assert answer.choices[0].text == tuned.generate(SOURCE, strategy="greedy", max_length=12), name
        assert answer.model == name and answer.usage.completion_tokens <= 12
    raw = client.completions.create(model="tiny-llama", prompt=SOURCE, max_tokens=12, temperature=0)
    assert raw.choices[0].text == of_transformers(running, SOURCE, 12)


def of_transformers(running, text, most):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(running.model), AutoTokenizer.from_pretrained(running.model)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        out = model.generate(ids, do_sample=False, max_new_tokens=most)[0, ids.shape[1] :]
    return tokenizer.decode(out, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def test_many_clients_do_not_disturb_one_another(running, client):
    names = [*running.tuned, "tiny-llama", "formal+casual"]
    sampled = dict(prompt=SOURCE, max_tokens=10, temperature=0.8, top_p=0.9, seed=5)
    ask = lambda name: client.completions.create(model=name, **sampled).choices[0].text
    alone = {name: ask(name) for name in names}
    before = running.server.engine.programs()
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        together = list(pool.map(ask, names * 5))
    assert together == [alone[name] for name in names * 5]
    assert running.server.engine.programs() == before
    assert len(set(alone.values())) > 2


def test_a_stream_has_the_pieces_of_the_whole(running, client):
    asked = dict(model="casual", prompt=[SOURCE, PAIRS[1][0]], max_tokens=9, temperature=0.9, seed=1, n=2)
    whole = client.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    texts, ends, usage = [""] * 4, {}, None
    for part in client.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = part.usage or usage
        for choice in part.choices:
            texts[choice.index] += choice.text
            ends[choice.index] = choice.finish_reason or ends.get(choice.index)
    assert texts == [choice.text for choice in whole.choices]
    assert ends == {choice.index: choice.finish_reason for choice in whole.choices}
    assert usage == whole.usage


def test_chat_follows_the_template(running, client):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(running.model)
    assert tokenizer.chat_template == TEMPLATE
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    raw = client.completions.create(model="formal", prompt=ids, max_tokens=8, temperature=0)
    asked = dict(model="formal", messages=messages, max_tokens=8, temperature=0)
    chat = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    assert chat.choices[0].message.content == raw.choices[0].text
    assert chat.usage.prompt_tokens == len(ids)
    content = chat.choices[0].logprobs.content
    assert all(entry.logprob == max(top.logprob for top in entry.top_logprobs) for entry in content)
    parts = list(client.chat.completions.create(**asked, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert "".join(part.choices[0].delta.content or "" for part in parts) == raw.choices[0].text


def test_stop_strings_and_log_probabilities(client):
    asked = dict(model="formal", prompt=SOURCE, temperature=0, max_tokens=12, extra_body={"raw": True})
    whole = client.completions.create(**asked, logprobs=3)
    text, found = whole.choices[0].text, whole.choices[0].logprobs
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset)
    assert all(max(tops.values()) == score for tops, score in zip(found.top_logprobs, found.token_logprobs))
    stop = text[len(text) // 2 :][:2]
    cut = client.completions.create(**asked, stop=stop)
    assert cut.choices[0].text == text[: text.index(stop)] and cut.choices[0].finish_reason == "stop"


def test_the_harness_scores_through_the_server(running):
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    from prefix_jax.harness import PrefixLM

    theirs = LocalCompletionsAPI(
        model="tiny-llama", base_url=f"{running.url}/v1/completions", tokenizer=str(running.model),
        tokenizer_backend="huggingface", header={"Authorization": f"Bearer {KEY}"}, max_length=120,
    )  # fmt: skip
    requests = [
        Instance("loglikelihood", {}, (source, f" {target}"), i) for i, (source, target) in enumerate(PAIRS[:4])
    ]
    found = theirs.loglikelihood(requests, disable_tqdm=True)
    ours = PrefixLM(pretrained=str(running.model), max_length=120).loglikelihood(requests)
    np.testing.assert_allclose([one[0] for one in found], [one[0] for one in ours], atol=1e-3)
    assert [one[1] for one in found] == [one[1] for one in ours]


def test_adapters_come_and_go(running, client):
    models = {model.id: model for model in client.models.list()}
    assert list(models) == ["tiny-llama", "formal", "casual", "late"] or "late" in models
    assert models["formal"].parent == "tiny-llama" and models["tiny-llama"].parent is None
    assert request(running, "/v1/load_lora_adapter", {"lora_name": "again", "lora_path": "late"})[0] == 200
    again = client.completions.create(model="again", prompt=SOURCE, max_tokens=6, temperature=0)
    assert again.choices[0].text == running.tuned["late"].generate(SOURCE, strategy="greedy", max_length=6)
    assert request(running, "/v1/unload_lora_adapter", {"lora_name": "again"})[0] == 200
    with pytest.raises(openai.NotFoundError, match='the model "again" does not exist'):
        client.completions.create(model="again", prompt="x")
    for path in ("../formal", "/etc"):
        status, _, body = request(running, "/v1/adapters", {"lora_name": "x", "lora_path": path})
        assert status == 403 and "outside the server's --tuned_dir" in body.decode()
    with pytest.raises(openai.BadRequestError, match="join prefixes only"):
        client.completions.create(model="formal+lora", prompt="x")


BAD = [
    ({}, 'no "model"'),
    ({"model": "formal"}, 'no "prompt"'),
    ({"model": "formal", "prompt": ""}, "empty"),
    ({"model": "formal", "prompt": []}, "empty"),
    ({"model": "formal", "prompt": "x", "max_tokens": -1}, "max_tokens is -1"),
    ({"model": "formal", "prompt": "x", "temprature": 1}, 'did you mean "temperature"'),
    ({"model": "formal", "prompt": "x", "temperature": "hot"}, "temperature is 'hot'"),
    ({"model": "formal", "prompt": "x", "top_p": 0}, "top_p is 0"),
    ({"model": "formal", "prompt": "x", "presence_penalty": 1}, "not supported"),
    ({"model": "formal", "prompt": "x", "max_tokens": 1000}, "maximum context length is 128 tokens"),
    ({"model": "formal", "prompt": [3, 99999]}, "99999"),
    ({"model": "formal", "prompt": ["x"] * 9, "n": 2}, "more than 16 answers"),
    ({"model": "formal", "prompt": "x", "n": 0}, "n is 0"),
    ({"model": "formal", "prompt": {"a": 1}}, "prompt is"),
    ([1], "not a JSON object"),
]


@pytest.mark.parametrize(("body", "said"), BAD)
def test_a_bad_request_has_one_sentence(running, body, said):
    status, headers, answer = request(running, "/v1/completions", body)
    message = json.loads(answer)["error"]["message"]
    assert status == 400 and said in message and "\n" not in message and headers["x-request-id"]


def test_a_thousand_malformed_bodies_change_nothing(running, client):
    generator, whole = np.random.default_rng(0), json.dumps({"model": "formal", "prompt": SOURCE, "max_tokens": 2})
    before = running.server.engine.programs()

    def broken(i):
        data = bytearray(whole.encode())
        for place in generator.integers(0, len(data), 1 + i % 5):
            data[place] = generator.integers(0, 256)
        return bytes(data[: len(data) - i % 3])

    bodies = [broken(i) for i in range(1000)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda data: request(running, "/v1/completions", data=data), bodies))
    for status, _, answer in found:
        assert status in (200, 400, 404), answer
        assert status == 200 or len(json.loads(answer)["error"]["message"]) > 10
    assert sum(status != 200 for status, _, _ in found) > 500
    assert running.server.engine.counts == (0, 0) and running.server.engine.programs() == before
    assert client.completions.create(model="formal", prompt=SOURCE, max_tokens=2).choices


def test_limits_and_keys(running, client):
    assert request(running, "/v1/models", key="wrong")[0] == 401
    assert request(running, "/v1/completions", data=b"x" * (1 << 17))[0] == 413
    assert request(running, "/v1/nothing")[0] == 404 and request(running, "/v1/completions")[0] == 405
    assert request(running, "/health")[0] == request(running, "/ready")[0] == 200
    engine, queue = running.server.engine, running.server.engine.queue
    engine.queue = 0
    try:
        status, headers, _ = request(running, "/v1/completions", {"model": "formal", "prompt": "x"})
    finally:
        engine.queue = queue
    assert status == 429 and headers["retry-after"]


def test_a_client_that_leaves_ends_its_request(running, client):
    asked = dict(model="formal", prompt=SOURCE, max_tokens=90, extra_body={"min_tokens": 90})
    stream = client.completions.create(**asked, stream=True)
    next(iter(stream))
    assert running.server.engine.counts[0] == 1
    stream.close()
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.05).completions.create(**asked)
    limit = time.monotonic() + 10
    while running.server.engine.counts != (0, 0) and time.monotonic() < limit:
        time.sleep(0.01)
    assert running.server.engine.counts == (0, 0)


def test_metrics_have_the_names_of_vllm(running, client):
    client.completions.create(model="formal", prompt=SOURCE, max_tokens=3)
    found = request(running, "/metrics")[2].decode()
    assert f"prefix_jax:compiled_programs {running.server.engine.programs():.1f}" in found
    for name in (
        "vllm:num_requests_running 0.0",
        'vllm:generation_tokens_total{model_name="formal"}',
        'vllm:time_to_first_token_seconds_bucket{le="0.005",model_name="formal"}',
    ):
        assert name in found
