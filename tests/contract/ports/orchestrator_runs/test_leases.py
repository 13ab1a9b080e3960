"""The suite of `engine.ports.Leases`: who owns shards."""

from collections import Counter

import pytest

from services.meshkit.core.identity import TenantId
from services.orchestrator.engine.run import (
    SHARDS,
    ShardLease,
)
from tests.support.run_places import Place, Store, a_run, an_owner, join, shards_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_one_replica_owns_all_shards_and_keeps_them(store: Store) -> None:
    owner = an_owner()
    held = await join(store, owner)
    assert (shards_of(held), held.share) == (list(range(SHARDS)), SHARDS)
    again = await join(store, owner, held)
    assert sorted(again.leases, key=lambda lease: lease.shard) == sorted(held.leases, key=lambda lease: lease.shard)


async def test_shards_are_claimed_a_bounded_number_at_a_time(store: Store) -> None:
    held = await store.leases.hold(an_owner(), (), restarted=False, most=5)
    assert len(held.leases) == 5


async def test_a_leased_shard_is_nobodys_to_claim(store: Store) -> None:
    await join(store, an_owner())
    second = await join(store, an_owner())
    assert (second.leases, second.share) == ((), SHARDS // 2)


@pytest.mark.parametrize("replicas", [2, 3])
async def test_replicas_get_fair_shares_once_the_first_hands_over(store: Store, replicas: int) -> None:
    owners = [an_owner() for _ in range(replicas)]
    held = {owner: await join(store, owner) for owner in owners}
    share = -(-SHARDS // replicas)
    held = {owner: await join(store, owner, held[owner]) for owner in owners}
    assert {one.share for one in held.values()} == {share}
    surplus = held[owners[0]].leases[share:]
    await store.leases.release(owners[0], surplus, leaving=False)
    for owner in owners[1:]:
        held[owner] = await join(store, owner, held[owner])
    kept = held[owners[0]].leases[:share]
    assert [len(kept), *(len(held[owner].leases) for owner in owners[1:])] == [
        share,
        *([share] * (replicas - 2)),
        SHARDS - share * (replicas - 1),
    ]
    owned = [*(lease.shard for lease in kept), *(shard for owner in owners[1:] for shard in shards_of(held[owner]))]
    assert set(Counter(owned).values()) == {1}, "a shard has one owner"


async def test_a_change_of_hands_raises_the_epoch(store: Store) -> None:
    first = an_owner()
    before = {lease.shard: lease.epoch for lease in (await join(store, first)).leases}
    await store.leases.release(first, [ShardLease(shard=7, epoch=before[7])], leaving=False)
    [taken] = (await store.leases.hold(an_owner(), (), restarted=False, most=1)).leases
    assert (taken.shard, taken.epoch) == (7, before[7] + 1)


async def test_a_restarted_replica_takes_its_shards_at_once(store: Store) -> None:
    before = await join(store, an_owner("r-restarted"))
    reborn = an_owner("r-restarted")
    assert not (await join(store, reborn)).leases, "unless it says so, the leases have to run out"
    after = await join(store, reborn, restarted=True)
    assert (shards_of(after), after.share) == (list(range(SHARDS)), SHARDS)
    epochs = {lease.shard: lease.epoch for lease in before.leases}
    assert all(lease.epoch == epochs[lease.shard] + 1 for lease in after.leases)


async def test_a_restarted_replica_takes_nothing_of_others(store: Store) -> None:
    first = await join(store, an_owner())
    other = an_owner()
    assert not (await join(store, other, restarted=True)).leases
    assert len(first.leases) == SHARDS


async def test_an_expired_lease_that_nobody_claimed_can_be_extended(place: Place, tenant: TenantId) -> None:
    store, owner = place.store, an_owner()
    held = await join(store, owner)
    driven = await a_run(store, tenant, held.leases[0])
    await place.expire(held.leases[0].shard)
    assert list(await store.journal.commit([held.leases[0]], [driven.on()])) == [held.leases[0].shard]
    again = await join(store, owner, held)
    assert set(again.leases) == set(held.leases)


async def test_an_expired_lease_is_free_for_others(place: Place) -> None:
    store, owner, other = place.store, an_owner(), an_owner()
    held = await join(store, owner)
    await join(store, other)
    await place.expire(3, 5)
    assert shards_of(await join(store, other)) == [3, 5]
    assert {3, 5}.isdisjoint(shards_of(await join(store, owner, held)))


async def test_what_an_owner_holds_without_knowing_it_gets_again(store: Store) -> None:
    """The answer to its claim was lost, so nobody else would take it until the lease runs out."""
    owner = an_owner()
    lost = {lease.shard: lease.epoch for lease in (await join(store, owner)).leases}
    again = {lease.shard: lease.epoch for lease in (await join(store, owner)).leases}
    assert again == {shard: epoch + 1 for shard, epoch in lost.items()}


async def test_a_released_shard_is_free_at_once(store: Store) -> None:
    first, second = an_owner(), an_owner()
    held = await join(store, first)
    await join(store, second)
    await store.leases.release(first, held.leases[:2], leaving=False)
    assert shards_of(await join(store, second)) == sorted(lease.shard for lease in held.leases[:2])


async def test_a_replica_that_leaves_takes_no_share_any_more(store: Store) -> None:
    first, second = an_owner(), an_owner()
    held = await join(store, first)
    await join(store, second)
    await store.leases.release(first, held.leases, leaving=True)
    after = await join(store, second)
    assert (after.share, len(after.leases)) == (SHARDS, SHARDS)


async def test_a_replica_that_is_silent_takes_no_share_any_more(place: Place) -> None:
    first, second = an_owner(), an_owner()
    await join(place.store, first)
    await join(place.store, second)
    await place.bury(first)
    assert (await join(place.store, second)).share == SHARDS


async def test_nobody_releases_what_another_has_claimed(place: Place) -> None:
    store, first, second = place.store, an_owner(), an_owner()
    held = await join(store, first)
    await join(store, second)
    await place.expire(9)
    taken = await join(store, second)
    await store.leases.release(first, held.leases, leaving=True)
    assert taken.leases[0] in (await join(store, second, taken)).leases


async def test_a_claim_leaves_out_a_shard_whose_commit_is_under_way(place: Place) -> None:
    store, first, second = place.store, an_owner(), an_owner()
    await join(store, first)
    await join(store, second)
    await place.expire(4, 6)
    async with place.under_way(4):
        assert shards_of(taken := await join(store, second)) == [6]
    assert shards_of(await join(store, second, taken)) == [4, 6]


async def test_a_replica_that_leaves_gives_up_what_it_never_heard_to_have_claimed(store: Store) -> None:
    first = an_owner()
    held = await join(store, first)
    await store.leases.release(first, held.leases[:3], leaving=True)
    assert shards_of(await join(store, an_owner())) == shards_of(held)
