"""A node's cache against a simple model of it: whatever participants do, and whoever of them dies."""

import tempfile
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from node_world import claim, content, die, files, key_for, node_cache

BUDGET = 30_000
SIZES = [1_000, 4_000, 9_000, 14_000, 31_000]

numbers = st.integers(0, 11)
places = st.integers(0, 2)


def chunk(number):
    return content(number, SIZES[number % len(SIZES)])


class Model(RuleBasedStateMachine):
    """Chunks are numbers; `present` is in order of use, `fetching` says who, `dead` are not noticed yet."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.caches = {}  # by participant
        self.places = [None] * 3  # the participant at each place
        self.present, self.fetching, self.claims = [], {}, {}
        self.dead, self.born = set(), 0

    # -- the model ----------------------------------------------------------------------------------------
    def used(self):
        return sum(len(chunk(n)) for n in [*self.present, *self.fetching])

    def bury(self, participants):
        self.fetching = {n: who for n, who in self.fetching.items() if who not in participants}
        self.dead -= set(participants)

    def admits(self, number):
        """What a claim should say; changes the model as it should change the cache."""
        if number in self.present:
            self.present.remove(number)
            self.present.append(number)
            return "present"
        if number in self.fetching:
            if self.fetching[number] not in self.dead:
                return "elsewhere"
            self.bury([self.fetching[number]])
        if len(chunk(number)) > BUDGET:
            return None
        while self.used() + len(chunk(number)) > BUDGET:
            if self.present:
                self.present.pop(0)
            elif self.dead:
                self.bury(list(self.dead))
            else:
                return None
        return "mine"

    # -- what may happen ------------------------------------------------------------------------------------
    @rule(place=places)
    def join(self, place):
        if self.places[place] is None:
            self.born += 1
            self.bury(list(self.dead))
            self.places[place] = self.born
            self.caches[self.born] = node_cache(self.folder.name, BUDGET)

    @rule(place=places, number=numbers)
    def claim(self, place, number):
        who = self.places[place]
        if who is None:
            return
        expected = self.admits(number)
        found = claim(self.caches[who], chunk(number))
        said = next((name for name in ("present", "mine", "elsewhere") if getattr(found, name)), None)
        assert said == expected
        if said == "mine":
            self.fetching[number] = who
            self.claims[number] = found
        elif said == "present":
            assert bytes(self.caches[who].read(found)) == chunk(number)

    def mine(self, place):
        return [n for n, who in self.fetching.items() if who == self.places[place]]

    @rule(place=places, data=st.data())
    def publish(self, place, data):
        if self.mine(place):
            number = data.draw(st.sampled_from(self.mine(place)))
            assert self.caches[self.places[place]].publish(self.claims[number], chunk(number))
            del self.fetching[number]
            # Its use is the claim, not the end of the fetch.
            self.present.append(number)
            table = self.caches[self.places[place]]._shared.ledger.table
            self.present.sort(key=lambda n: table.last_use[table.find(key_for(chunk(n)))])

    @rule(place=places, data=st.data())
    def abandon(self, place, data):
        if self.mine(place):
            number = data.draw(st.sampled_from(self.mine(place)))
            self.caches[self.places[place]].abandon([self.claims[number]])
            del self.fetching[number]

    @rule(place=places, killed=st.booleans())
    def leave(self, place, killed):
        who = self.places[place]
        if who is None:
            return
        if killed:
            die(self.caches[who])
            self.dead.add(who)
        else:
            self.caches[who].close()
            self.bury([who])
        self.places[place] = None

    @precondition(lambda self: self.present)
    @rule(place=places, data=st.data(), shortened=st.booleans())
    def damage(self, place, data, shortened):
        who = self.places[place]
        if who is None:
            return
        cache, number = self.caches[who], data.draw(st.sampled_from(self.present))
        path = cache._folder.chunk(key_for(chunk(number)))
        found = claim(cache, chunk(number))
        path.write_bytes(b"short") if shortened else path.unlink()
        assert cache.read(found) is None
        self.present.remove(number)

    # -- what always holds ------------------------------------------------------------------------------------
    @invariant()
    def agrees(self):
        living = [who for who in self.places if who is not None]
        if living:
            cache = self.caches[living[0]]
            chunks, parts = files(cache)
            assert set(chunks) == {key_for(chunk(n)) for n in self.present}
            assert cache.used_bytes == self.used() <= BUDGET
            assert sum(chunks.values()) + sum(parts) <= BUDGET

    def teardown(self):
        for who in self.places:
            if who is not None:
                with suppress(OSError):
                    self.caches[who].close()
        self.folder.cleanup()


Model.TestCase.settings = settings(max_examples=80, stateful_step_count=40)
TestNodeCacheAgainstItsModel = Model.TestCase
