"""`pinnerformer serve` as processes: releases change under load, a process dies, the end."""

import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np

from stores.files import Root
from stores.manifests import read_manifest
from stores.retriever import Retriever
from tests.pipelines.nights import vectors_of
from tests.pipelines.serving.running import Client, served_by_processes


def children_of(pid: int) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return [int(word) for word in file.read().split()]
    except FileNotFoundError:
        return []


def test_releases_change_under_load_and_nobody_notices(kept):
    """Every answer is whole, of one release, and as that release has it; none fails."""
    with Retriever(kept.root, kept.kv) as retriever:
        users = retriever.known_users(3).some
    ended, answers, failures = threading.Event(), [], []

    def ask(port: int) -> None:
        client = Client(port)
        try:
            while not ended.is_set():
                found = client.post("/v1/embeddings:lookup", {"ids": users})
                pins = client.get(f"/v1/users/{users[0]}/pins?k=5&exclude_engaged=true")
                answers.append((found, pins))
        except Exception as error:
            failures.append(error)

    with served_by_processes(f"--root={kept.root}", f"--kv={kept.kv}", "--workers=2") as (_, client):
        threads = [threading.Thread(target=ask, args=(client.port,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for release in ("2026-11-03", "2026-11-02"):
            time.sleep(1.0)
            assert kept.of_root("rollback", f"--to={release}", "--reason=a test") == 0
        time.sleep(2.5)
        ended.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert {found.status for pair in answers for found in pair} == {200}
    expected = {}
    for release in ("2026-11-04", "2026-11-03", "2026-11-02"):
        vectors = vectors_of(kept.root, read_manifest(Root(kept.root), release))
        expected[release] = np.array([np.frombuffer(vectors[user], np.float16) for user in users])
    pins_of = {}
    for found, pins in answers:
        assert found.headers["PinnerFormer-Release"] == found.body["release"]
        rows = np.array([row["embedding"] for row in found.body["embeddings"]], np.float16)
        assert np.array_equal(rows, expected[found.body["release"]])
        assert pins_of.setdefault(pins.body["release"], pins.body) == pins.body
    assert {found.body["release"] for found, _ in answers} == set(pins_of) == set(expected)


def test_a_process_that_dies_is_replaced_and_all_end_together(kept):
    with served_by_processes(f"--root={kept.root}", f"--kv={kept.kv}", "--workers=2") as (process, client):
        first = children_of(process.pid)
        assert len(first) == 2 and client.get("/readyz").status == 200
        os.kill(first[0], signal.SIGKILL)
        for _ in range(100):
            time.sleep(0.1)
            now = children_of(process.pid)
            if len(now) == 2 and first[0] not in now:
                break
        assert len(now) == 2 and first[0] not in now
        assert Client(client.port).get("/readyz").status == 200
        # Counts are of all processes.
        for _ in range(6):
            Client(client.port).get("/healthz")
        text = Client(client.port).get("/metrics").body
        assert 'pinnerformer_serve_requests_total{endpoint="healthz",status="200"} 6.0' in text
    assert children_of(process.pid) == []
    for pid in now:
        assert not os.path.exists(f"/proc/{pid}")


def test_a_token_is_asked_for(kept):
    words = [f"--root={kept.root}", f"--kv={kept.kv}", "--token-env=SERVE_TOKEN"]
    with served_by_processes(*words, env={"SERVE_TOKEN": "0123456789abcdef"}) as (_, client):
        found = client.get("/v1/releases")
        assert found.status == 401 and "Bearer TOKEN" in found.detail
        assert found.headers["www-authenticate"].startswith("Bearer")
        assert client.get("/v1/releases", Authorization="Bearer 0123456789abcdeF").status == 401
        assert client.get("/v1/releases", Authorization="Bearer 0123456789abcdef").status == 200
        assert client.get("/readyz").status == 200


def test_a_question_is_answered_by_one_thread(tmp_path):
    """Numpy looks at the environment once, when it is loaded; it is not loaded yet where that is said."""
    code = """if True:
        import os, sys
        from pipelines.serving import command
        command.run = lambda request, listening: print(os.environ["OPENBLAS_NUM_THREADS"], "numpy" in sys.modules)
        sys.exit(command.main(sys.argv[1:]))"""
    words = [f"--root={tmp_path}", f"--kv=lmdb://{tmp_path}/kv", "--port=0"]
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, env=env)
    assert done.stdout == "1 False\n"


def test_a_signal_that_comes_while_a_release_is_opened_ends_it_in_order():
    """Another thread gets it then, of a library that holds no signal back."""
    code = """if True:
        import threading, time
        from pipelines.serving.workers import Workers
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        Workers(0, None, None).run(lambda: print("looks", flush=True) or time.sleep(1), 0.01, lambda: None)
        print("ended")"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "looks\n"
        process.terminate()
        assert process.wait(30) == 0 and process.stdout.read().endswith("ended\n")
