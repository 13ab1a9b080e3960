"""A proxy that only passes chats on: what aiohttp in Python takes by itself, with neither keys, law nor money.

    python -m tests.bench.bare_proxy <address of the model>

It prints its port.
"""

import asyncio
import sys

import aiohttp
import uvloop
from aiohttp import web


async def _serve(model: str) -> None:
    async with aiohttp.ClientSession() as session:

        async def pass_on(request: web.BaseRequest) -> web.Response:
            body = await request.read()
            async with session.post(
                f"{model}{request.path}", data=body, headers={"content-type": "application/json"}
            ) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type="application/json")

        runner = web.ServerRunner(web.Server(pass_on, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        sys.stdout.write(f"{runner.addresses[0][1]}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
