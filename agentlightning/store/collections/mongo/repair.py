"""Putting right what a crash may have left behind where there are no transactions."""

from __future__ import annotations

import logging
from typing import Final

from agentlightning.store.collections.mongo.block import Block
from agentlightning.store.collections.mongo.document import queue_document
from agentlightning.store.collections.mongo.layout import QUEUE, ROLLOUTS

logger = logging.getLogger(__name__)

_WAITING: Final = ["queuing", "requeuing"]


async def queue_what_waits(block: Block) -> None:
    """Put rollouts that wait to be claimed, but are not in line, at the end of the line.

    Whoever writes all of a step at once leaves none; whoever wrote records one by one may have.
    """
    line = block.collection(QUEUE).find(block.mine(), {"_id": 0, "value": 1})
    queued = {found["value"] async for found in line}
    waiting = block.collection(ROLLOUTS.name).find(
        block.mine(status={"$in": _WAITING}), {"_id": 0, "rollout_id": 1}, sort=[("o", 1)]
    )
    missing = [found["rollout_id"] async for found in waiting if found["rollout_id"] not in queued]
    if not missing:
        return
    first = await block.advance("o", len(missing))
    await block.collection(QUEUE).insert_many(
        [
            queue_document(block.opened.partition, value, first + place)
            for place, value in enumerate(missing)
        ]
    )
    logger.warning("waiting rollouts were not in line, queued them", extra={"count": len(missing)})
