from app.apis.endpoints import APIS


def test_only_what_makes_a_model_work_leaves_prompts_takes_slots_or_costs_tokens() -> None:
    idle = [api for api in APIS.values() if not api.works]

    assert not any(api.prompt or api.slot or api.tokens for api in idle)


def test_every_path_is_one_that_a_request_may_have() -> None:
    assert all(path.startswith("/") and path == path.rstrip("/") for path in APIS)
