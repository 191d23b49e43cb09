"""A small Hub on 127.0.0.1 that the unmodified huggingface_hub, transformers, datasets and evaluate talk to.

    def test_something(hub):                                        # fixture in tests/conftest.py
        hub.put("me/model", folder, tags=["step1000"])              # straight into the store, no client
        hub.fail("resolve", "rate limited", times=2)                # the next two requests for files get 429
        done = hub.run("-m", "hf_llc", "estimate", "--model", "me/model", user="me")       # a program of its own
        assert hub.read("me/model", "README.md") == ...

`store.py` holds repositories as git would (commits, branches, tags, refs/pr/N) and says who may see and write them;
`reading.py` and `writing.py` answer the routes that huggingface_hub 2.4 calls, entered by name in `table.py`;
`faults.py` names what can go wrong; `server.py` is the HTTP around them and `Hub`, the handle; `client.py` starts
programs that use it, and can keep one with everything imported, which forks for each call.

What it leaves out: Xet storage (its routes answer 404, so clients need HF_HUB_DISABLE_XET=1, which `environment` sets),
redirects to a CDN (large files come from the same address), the data set viewer (clients do without), listings over
all repositories, and everything that is not about repositories.
"""

from hub.server import Hub
from hub.store import Repo, Store, User

__all__ = ["Hub", "Repo", "Store", "User"]
