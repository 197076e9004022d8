"""What is done before a request goes to its slot: one prompt is saved, another restored."""

from app.routing.backend import Backend
from app.routing.choice import Ask
from app.routing.costs import reading
from app.routing.ledger import Lease
from app.routing.prompt import Prompt
from app.routing.prompt_cache import Match, Placement
from app.routing.saved_prompts import SlotFiles
from app.routing.seconds import NEGLIGIBLE


def files_for(
    ask: Ask, prompt: Prompt, backend: Backend, placement: Placement, now: float
) -> SlotFiles | None:
    """Tell what pays to be saved of a slot, or restored into it; None for nothing."""
    slot, cache = placement.slot, placement.prompt_cache
    if slot is None or not (ask.takes_slot and backend.names_slots):
        return None
    remembered = placement.match is Match.REMEMBERED
    restore = cache.take_file(placement.continued) if remembered else ""
    files = SlotFiles(restore, placement.known)
    before = slot.prompt
    if before is None or prompt.changes(before):
        return files if restore else None
    files.leaving = before
    # The server keeps nothing of what a file replaces.
    kept = not restore and not slot.drops_for(prompt)
    lost = cache.lost_by_evicting(slot, now, placement.continued, kept=kept)
    pays = reading(lost, backend, ask) > max(NEGLIGIBLE, backend.saved.seconds(before.size))
    if pays and backend.saved.usable(now):
        files.save = cache.name_file()
    return files if files.save or restore else None


def note_saved(backend: Backend, lease: Lease, seconds: float | None, now: float) -> None:
    """Note how long it took to save what a slot held; None: it was not saved."""
    files = lease.files
    if files is None or files.leaving is None:
        return
    name, files.save = files.save, ""
    if seconds is None:
        backend.saved.rest(now)
        backend.saved.free(name)
    else:
        files.seconds += seconds
        backend.saved.note_saving(files.leaving.size, seconds)
        backend.prompt_cache(lease.instance).note_file(files.leaving.base, name)


def note_restored(backend: Backend, lease: Lease, seconds: float | None) -> None:
    """Note how long it took to restore what a slot shall hold; None: it was not restored."""
    files = lease.files
    if files is None:
        return
    name, files.restore = files.restore, ""
    backend.saved.free(name)
    if seconds is None:
        lease.prediction = None
        return
    files.seconds += seconds
    backend.saved.note_restoring(files.restoring, seconds)
    if lease.prediction is not None:
        lease.prediction.rank = None  # it says nothing of the server's memory
    if files.leaving is not None:
        backend.prompt_cache(lease.instance).lose(files.leaving.base)
