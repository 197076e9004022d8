from app.routing.ledger import Lease, Ledger


def book(ledger: Ledger, instance: str = "m", since: float = 0.0) -> Lease:
    lease = Lease(
        "PC1", instance, model="m", client="c", reason="idle", since=since, let_go=ledger.strike
    )
    ledger.enter(lease)
    return lease


def test_the_total_is_the_number_of_open_leases_over_all_instances() -> None:
    ledger = Ledger()
    first = book(ledger, "m")
    book(ledger, "m-2")

    assert (ledger.total, ledger.on("m"), ledger.on("m-2")) == (2, 1, 1)
    first.release()
    assert (ledger.total, ledger.on("m"), ledger.by_instance()) == (1, 0, {"m-2": 1})


def test_releasing_twice_counts_once() -> None:
    ledger = Ledger()
    first = book(ledger)
    book(ledger)

    first.release()
    first.release()

    assert ledger.total == 1


def test_a_lease_ends_with_its_block_even_when_the_block_raises() -> None:
    ledger = Ledger()
    try:
        with book(ledger):
            assert ledger.total == 1
            raise KeyError
    except KeyError:
        pass

    assert ledger.total == 0


def test_a_ledger_is_full_at_its_limit_and_never_without_one() -> None:
    limited, free = Ledger(limit=1), Ledger()
    book(limited)
    book(free)

    assert limited.full
    assert not free.full


def test_leases_are_listed_oldest_first() -> None:
    ledger = Ledger()
    young, old = book(ledger, "a", since=2.0), book(ledger, "b", since=1.0)

    assert ledger.leases() == [old, young]
