"""The peer of jobs.builtin_vs_arq: `python arq_peer.py SOCKET COUNT` with requirements/arq-peer.txt.

Queues COUNT jobs, then times one burst worker from its start-up hook to the last result in Redis.
"""

import sys
import time
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker

OPTIONS = {"burst": True, "max_jobs": 64, "queue_read_limit": 2000, "poll_delay": 0.001, "keep_result": 300}
"""arq reads 5 * max_jobs jobs each half second by default, which alone would hold it at 640/s."""


async def ping(ctx: dict[str, Any]) -> str:
    return "PONG"


async def measured(socket: str, count: int) -> float:
    redis = await create_pool(RedisSettings(unix_socket_path=socket))
    for n in range(count):
        await redis.enqueue_job("ping", _job_id=f"{n}")
    began = 0.0

    async def on_startup(ctx: dict[str, Any]) -> None:
        nonlocal began
        began = time.perf_counter()

    worker = Worker([ping], redis_pool=redis, handle_signals=False, on_startup=on_startup, **OPTIONS)
    await worker.async_run()
    seconds = time.perf_counter() - began
    results = sum([1 async for _ in redis.scan_iter("arq:result:*", count=5000)])
    assert (worker.jobs_complete, results) == (count, count)
    return seconds


print(uvloop.run(measured(sys.argv[1], int(sys.argv[2]))))
