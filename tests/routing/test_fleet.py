from app.routing.fleet import Fleet, Server

A, B, C = (Server(name, f"http://{name.lower()}:8080") for name in "ABC")


def test_the_first_pattern_that_matches_decides() -> None:
    fleet = Fleet.of([A, B, C], {"gpt-oss:20b.*": ["B"], "gpt-oss.*": ["C", "A"]})

    assert fleet.candidates("gpt-oss:20b-64k") == ("B",)
    assert fleet.candidates("gpt-oss:120b") == ("C", "A")


def test_a_pattern_must_match_the_whole_name() -> None:
    fleet = Fleet.of([A], {"qwen3": ["A"]})

    assert fleet.candidates("qwen3") == ("A",)
    assert fleet.candidates("qwen3-coder") is None
    assert fleet.candidates("my-qwen3") is None


def test_a_name_without_a_tag_and_ollamas_spelling_of_it_go_the_same_way() -> None:
    fleet = Fleet.of([A, B, C], {"plain": ["B"], "tagged:latest": ["C"], "sized:.*": ["A"]})

    assert fleet.candidates("plain:latest") == fleet.candidates("plain") == ("B",)
    assert fleet.candidates("tagged") == fleet.candidates("tagged:latest") == ("C",)
    assert fleet.candidates("plain:7b") is None


def test_the_fallback_is_the_first_server_unless_one_is_named() -> None:
    assert Fleet.of([A, B]).fallback == "A"
    assert Fleet.of([A, B], fallback="B").fallback == "B"
    assert Fleet.of([]).fallback is None


def test_a_name_that_is_too_long_never_reaches_a_regular_expression() -> None:
    assert Fleet.of([A], {".*": ["A"]}).candidates("x" * 257) is None


def test_invented_names_do_not_grow_the_memory_of_matches() -> None:
    fleet = Fleet.of([A], {"real.*": ["A"]})

    for n in range(3_000):
        fleet.candidates(f"invented-{n}")

    assert len(fleet._table._known) <= 1_000
    assert fleet.candidates("real-one") == ("A",)
