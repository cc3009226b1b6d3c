"""Parts of calls that conventions share."""

from agentlightning.adapter.llm_call import ids_of_body, read_usage


def test_usage_under_every_name():
    """Numbers of tokens come out under one set of names; a missing total is summed."""
    told = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    assert read_usage({"gen_ai.usage.input_tokens": 2, "gen_ai.usage.output_tokens": 3}) == told
    assert read_usage({"llm.token_count.prompt": 2, "llm.token_count.completion": 3}) == told
    assert read_usage({"gen_ai.usage.total_tokens": 9}) == {"total_tokens": 9}
    assert read_usage({"gen_ai.usage.input_tokens": "2"}) == {}


def test_ids_in_answers():
    """Token ids are found in each place where servers and proxies put them."""
    for choice in (
        {"token_ids": [3]},
        {"provider_specific_fields": {"token_ids": [3]}},
    ):
        body = {"prompt_token_ids": [1, 2], "choices": [choice]}
        assert ids_of_body(body)[:2] == ([1, 2], [3])
    assert ids_of_body({"response_token_ids": [[3]]})[1] == [3]
    assert ids_of_body({"response_token_ids": [3]})[1] == [3]
    assert ids_of_body({"choices": "none"}) == ([], [], None)
    logprobs = [{"logprob": -1.0}]
    assert ids_of_body({"choices": [{"logprobs": {"content": logprobs}}]})[2] == logprobs
