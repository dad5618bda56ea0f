"""The local page: what it says of files, the lenses that it draws, its tables, and the page in a real browser."""

import contextlib
import functools
import http.client
import importlib.util
import io
import itertools
import os
import shutil
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from haloformer.app import answers, lenses, pictures, tables
from haloformer.artefact.read import shipped_models
from haloformer.data.dataset_writer import write_dataset
from haloformer.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "app.py"


@pytest.fixture(scope="module")
def served(original_run):
    """The running page: its address, the folder of uploads, and a visitor without a browser."""
    pytest.importorskip("gradio")
    from haloformer.app import serving

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARK.parent))
        spec = importlib.util.spec_from_file_location("app_benchmark", BENCHMARK)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    with serving(str(original_run), warm=False) as url:
        uploads = Path(os.environ["GRADIO_TEMP_DIR"])
        yield SimpleNamespace(url=url, uploads=uploads, visitor=module.Visitor(url, timeout=60))
    assert not uploads.exists()


def files_below(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def predictor(original_run):
    from haloformer.prediction import load

    return load(original_run, "cpu")


def test_an_image_is_answered_as_the_predictor_does(predictor, lenses, folder):
    found = answers.classify(predictor, folder / "lens_03.npy")
    expected = predictor.probabilities(lenses.images[3:4])[0]
    assert list(found.probabilities) == ["axion", "cdm", "no_sub"]
    np.testing.assert_allclose(list(found.probabilities.values()), expected)
    np.testing.assert_array_equal(found.image, lenses.images[3, 0])
    assert found.warning is None  # this artefact has no statistics of its training's images
    assert len(found.layers) == 2
    assert found.attention.shape == (2, 64, 64)
    assert found.attention.max() == pytest.approx(1)


def test_any_image_of_a_dataset_can_be_chosen(predictor, lenses, dataset):
    found = answers.classify(predictor, dataset, number=7, attention=False)
    np.testing.assert_array_equal(found.image, lenses.images[7, 0])
    with pytest.raises(InputError, match="0 … 11; there is no number 12"):
        answers.classify(predictor, dataset, number=12)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npy", np.zeros((20, 30), np.float32), "1 × 20 × 30"),
        ("a.npy", np.full((64, 64), np.nan, np.float32), "NaN .*the page has no such options"),
        ("a.npy", b"hello", "not a .npy file"),
        ("a.fits", b"hello", "not a FITS file"),
        ("a.png", b"", "empty"),
        ("a.h5", b"hello", "a.h5"),
        ("a.pkl", b"hello", "not an image file"),
    ],
)
@pytest.mark.parametrize("number", [0, 3])
def test_a_bad_file_gets_one_line_without_its_folder(
    predictor, tmp_path, name, content, message, number
):
    path = tmp_path / name
    path.write_bytes(content) if isinstance(content, bytes) else np.save(path, content)
    with pytest.raises(InputError, match=message) as caught:
        answers.classify(predictor, path, number=number)
    assert str(tmp_path) not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_over_the_limit_is_refused_before_it_is_read(predictor, tmp_path):
    path = tmp_path / "big.npy"
    with path.open("wb") as stream:
        stream.truncate(answers.MAX_UPLOAD_BYTES + 1)  # a hole: takes no disk
    with pytest.raises(InputError, match="larger than the 64 MiB"):
        answers.classify(predictor, path)


def test_a_file_that_unpacks_to_too_much_is_refused_before_it_does(predictor, bombs):
    paths = sorted(bombs.iterdir())
    assert len(paths) == 7
    for path in paths:
        assert path.stat().st_size < 2**20, path
        tracemalloc.start()
        try:
            with pytest.raises(
                InputError, match=f"^{path.name} unpacks to more than the 64 MiB that are allowed"
            ):
                answers.classify(predictor, path)
            assert tracemalloc.get_traced_memory()[1] < 200 * 2**20
        finally:
            tracemalloc.stop()


def test_packed_files_are_answered_as_plain_ones(predictor, lenses, tmp_path):
    from astropy.io import fits

    image = lenses.images[0, 0].numpy()
    fits.writeto(tmp_path / "a.fits.gz", image)
    for name, kind, level in (
        ("b.fits.fz", "GZIP_1", 0),
        ("c.fits", "GZIP_2", 0),
        ("d.fits", "RICE_1", 16),
    ):
        fits.CompImageHDU(image, compression_type=kind, quantize_level=level).writeto(
            tmp_path / name
        )
    np.savez(tmp_path / "g.npz", lens=image)
    np.savez_compressed(tmp_path / "h.npz", lens=image)
    write = functools.partial(write_dataset, class_names=lenses.class_names, parameters={})
    for name, compression in (("e.h5", "gzip"), ("f.h5", "lzf")):
        write(tmp_path / name, lenses.images[:1], lenses.labels[:1], compression=compression)
    expected = predictor.probabilities(lenses.images[:1])[0]
    for path in sorted(tmp_path.iterdir()):
        found = list(answers.classify(predictor, path, attention=False).probabilities.values())
        np.testing.assert_allclose(
            found, expected, atol=0.05 if path.name == "d.fits" else 1e-6, err_msg=path.name
        )


def test_an_image_of_another_pixel_scale_is_resampled_and_the_page_says_so(
    predictor, lenses, tmp_path
):
    from astropy.io import fits

    image = lenses.images[0, 0].numpy()
    np.save(tmp_path / "a.npy", image)
    assert "does not say its pixel scale" in answers.classify(predictor, tmp_path / "a.npy").scale
    np.save(tmp_path / "b.npy", np.kron(image, np.ones((2, 2))) / 4)
    with pytest.raises(
        InputError,
        match=r"b\.npy: image is .* give its pixel scale, choose it again, and it will be",
    ):
        answers.classify(predictor, tmp_path / "b.npy")
    found = answers.classify(predictor, tmp_path / "b.npy", pixel_scale=0.0505)
    assert found.scale == "Resampled from pixels of 0.0505″ to the model's 0.101″."
    np.testing.assert_allclose(found.image, image, rtol=1e-4, atol=1e-6)
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600}
    )
    fits.writeto(tmp_path / "c.fits", image, header)
    assert "pixels of 0.2″" in answers.classify(predictor, tmp_path / "c.fits").scale
    with pytest.raises(InputError, match=r"a number of arcsec is needed, from \S+ to \S+$"):
        answers.classify(predictor, tmp_path / "a.npy", pixel_scale=-1)


def test_a_lens_follows_its_sliders():
    lens = lenses.simulate("model_ii", "cdm", n_subhalos=25, noise="none")
    assert lens.image.shape == (64, 64)
    np.testing.assert_allclose(lens.image - lens.smooth, lens.difference, atol=1e-6)
    assert np.abs(lens.difference).max() > 0
    for changed in ({"source_x": 0.3}, {"n_subhalos": 5}, {"slope": -1.0}, {"draw": 1}):
        other = lenses.simulate("model_ii", "cdm", **{"n_subhalos": 25, "noise": "none", **changed})
        assert not np.array_equal(other.image, lens.image), changed
    axion = lenses.simulate("model_ii", "axion", noise="none", log10_m_axion=-24)
    for changed in ({"log10_m_axion": -23.0}, {"vortex_angle": 90.0}):
        other = lenses.simulate(
            "model_ii", "axion", **{"noise": "none", "log10_m_axion": -24, **changed}
        )
        assert not np.array_equal(other.image, axion.image), changed


def test_without_substructure_nothing_differs():
    for settings in ({"class_name": "no_sub"}, {"class_name": "cdm", "n_subhalos": 0}):
        assert not lenses.simulate("model_ii", **settings).difference.any()


def test_longer_exposures_have_less_noise():
    def noise(exposure: float) -> float:
        noisy, free = (
            lenses.simulate("model_ii", "no_sub", exposure=exposure, noise=kind)
            for kind in ("instrument", "none")
        )
        return float(np.std(noisy.image - free.image))

    assert noise(10_000) < 0.5 * noise(500)


@pytest.mark.parametrize(
    "wrong",
    [
        {"survey": "/etc/passwd"},
        {"class_name": "x"},
        {"n_subhalos": 10**9},
        {"source_x": float("nan")},
        {"draw": None},
    ],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        lenses.simulate(**wrong)


def test_the_model_is_asked_about_its_own_survey_and_noise_only(predictor):
    assert answers.why_no_answer(predictor, lenses.simulate("model_ii", "cdm")) is None
    assert "model_iii" in answers.why_no_answer(predictor, lenses.simulate("model_iii", "cdm"))
    assert "noise" in answers.why_no_answer(
        predictor, lenses.simulate("model_ii", "cdm", noise="none")
    )


def test_pictures_have_the_size_of_the_image_and_show_signs():
    image = np.arange(64.0).reshape(8, 8)
    assert pictures.light(image).shape == pictures.overlay(image, image / 63).shape == (8, 8, 3)
    assert pictures.light(np.zeros((8, 8))).max() == 0 or pictures.light(np.zeros((8, 8))).std() < 3
    red, _, blue = pictures.signed(np.array([[1.0, 0.0, -1.0]]))[0].T
    assert red[0] > blue[0]
    assert red[1] == blue[1] == 0
    assert blue[2] > red[2]


def test_the_shipped_model_stands_with_its_measured_auc():
    header, rows = tables.shipped_table()
    assert [row[0] for row in rows] == list(shipped_models())
    row = next(dict(zip(header, row, strict=True)) for row in rows if row[0] == "model_i")
    assert row["macro AUC (95 %)"].startswith("0.99")
    header, rows = tables.published_table()
    assert any("Srivastava" in cell for row in rows for cell in row)
    assert all(len(row) == len(header) for row in rows)


def test_a_leaderboard_is_read_and_another_table_refused(tmp_path):
    path = tmp_path / "leaderboard.csv"
    path.write_text(
        f"{','.join(tables._BOARD)}\nmodel_i,1,vit_nano,ViT,0.91,0.9,0.92,,0.8,680000\n"
    )
    assert tables.leaderboard_table(path)[1] == [
        ["model_i", "1", "vit_nano", "ViT", "0.9100 (0.9000–0.9200)", "–", "0.800", "0.68 M"]
    ]
    path.write_text(f"{','.join(tables._BOARD)}\nmodel_i,1,vit_nano,ViT,x,0.9,0.92,,0.8,680000\n")
    with pytest.raises(InputError, match=r"not the leaderboard\.csv"):
        tables.leaderboard_table(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="no column 'survey'"):
        tables.leaderboard_table(path)
    with pytest.raises(InputError, match="cannot be read"):
        tables.leaderboard_table(tmp_path / "none.csv")


def test_the_warm_up_answers_and_draws_once(predictor, monkeypatch):
    done = []
    for name in ("answer", "_attention", "simulate"):
        usual = getattr(answers, name)
        monkeypatch.setattr(
            answers, name, lambda *a, usual=usual, name=name: (done.append(name), usual(*a))[1]
        )
    answers.warm_up(predictor)
    assert done == ["answer", "_attention", "simulate"]
    stopped = threading.Event()
    stopped.set()
    answers.warm_up(predictor, stopped)
    assert len(done) == 3


def test_fifty_uploads_at_a_time_are_all_answered_and_none_is_kept(served, lenses):
    def content(k: int) -> tuple[str, bytes]:
        if k % 10 == 9:
            return "lens.npy", b"no image"
        file = io.BytesIO()
        np.save(file, lenses.images[k % 4, 0].numpy())  # several visitors have the same file
        return "lens.npy", file.getvalue()

    def visit(k: int) -> str:
        (path,) = served.visitor.upload(*content(k)).raise_for_status().json()
        return served.visitor.classify(path)

    def memory() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    used = []
    for n in (10, 50):
        with ThreadPoolExecutor(n) as pool:
            said = list(pool.map(visit, range(n)))
        assert ["hf-bars" in text for text in said] == [k % 10 != 9 for k in range(n)], said
        assert files_below(served.uploads) == []
        if Path("/proc/self/statm").exists():
            used.append(memory())
    if used:
        assert used[1] - used[0] < 50e6


@pytest.mark.parametrize(
    "address",
    [
        "/gradio_api/file=/etc/passwd", "/file=/etc/passwd", "/gradio_api/file/etc/passwd", "/gradio_api/file=https://example.com/",
        "/gradio_api/proxy=https://example.hf.space/", "/static/../../../../../../../../etc/passwd",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/static//etc/passwd", "/svelte/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2f..%2fetc%2fpasswd", "/gradio_api/info",
        "/docs", "/openapi.json", "/gradio_api/call/read", "/monitoring", "/gradio_api/component_server", "/gradio_api/runs",
        "/gradio_api/stream/a/1/6/x.ts",
    ],
)  # fmt: skip
def test_no_other_address_is_answered(served, address):
    host = served.url.split("/")[2]
    for method in ("GET", "POST"):
        connection = http.client.HTTPConnection(host, timeout=30)  # sends what it is told, ../ too
        connection.request(method, address)
        answer = connection.getresponse()
        assert answer.status in (403, 404), method
        assert b"root:" not in answer.read()
        connection.close()


def test_a_visitor_reads_no_file_of_the_server(served, tmp_path, lenses, caplog):
    secret = tmp_path / "secret.npy"
    np.save(secret, lenses.images[0, 0].numpy())
    (path,) = served.visitor.upload("a.npy", secret.read_bytes()).json()
    up = "/".join([".."] * len(Path(path).parts))
    for name in (
        str(secret),
        f"{path}/{up}{secret}",
        f"{Path(path).parent}/{up}{secret}",
        "https://example.com/a.npy",
    ):
        with pytest.raises(RuntimeError):
            served.visitor.classify(name)
    assert secret.exists()
    assert served.visitor.client.get(f"/gradio_api/file={path}").status_code == 404
    assert "hf-bars" in served.visitor.classify(path)


def test_a_fit_reads_no_file_of_the_server(served, tmp_path, lenses):
    secret = tmp_path / "secret.npy"
    np.save(secret, lenses.images[0, 0].numpy())
    visitor = served.visitor
    (call,) = (
        call
        for call in visitor.calls
        if [visitor.kinds[part] for part in call["inputs"]].count("file") == 4
    )
    data = [visitor.defaults[part] for part in call["inputs"]]
    for name in (str(secret), "https://example.com/a.npy"):
        data[0] = data[1] = {"path": name, "meta": {"_type": "gradio.FileData"}}
        with pytest.raises(RuntimeError):
            visitor._ask(call["id"], data)
    assert secret.exists()
    data[0] = data[1] = None
    assert "are needed" in visitor._ask(call["id"], data)[0]


def _ask(served, method="GET", path="/", **headers):
    """Returns an answer's status, headers and text, and sends no other headers than these."""
    host = served.url.split("/")[2]
    with contextlib.closing(http.client.HTTPConnection(host, timeout=30)) as connection:
        connection.putrequest(method, path, skip_host="host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            for one in [value] if isinstance(value, str) else value:
                connection.putheader(name.replace("_", "-"), one)
        if method == "POST":
            connection.putheader("Content-Length", "2")
        connection.endheaders(b"{}" if method == "POST" else None)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:7860", 200),
        ("[::1]:7860", 200),
        ("evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:7860", 421),
        ("10.0.0.1", 421),
        ("[evil", 421),
        ("", 421),
        (["localhost", "evil.example"], 421),
        ("<numbers>", 421),
    ],
)
def test_the_page_answers_to_its_own_names_only(served, host, status):
    found, _, text = _ask(served, host=host)
    assert found == status or (found == 400 and status == 421)
    assert "evil" not in text


def test_other_names_are_allowed_by_name():
    pytest.importorskip("gradio")
    from haloformer.app.origins import SameOrigin, allowed_hosts

    def takes(host, listening, *named):
        return SameOrigin(None, allowed_hosts(listening, named))._is_allowed([host])

    assert takes("10.0.0.1:80", "0.0.0.0")
    assert takes("[fe80::1]:80", "::")
    assert not takes("evil.example", "0.0.0.0")
    assert not takes("10.0.0.1", "127.0.0.1")
    assert takes("lens.example.org:80", "0.0.0.0", " Lens.example.org", "")
    assert takes("anything", "127.0.0.1", "*")


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/queue/join"])
@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "cross-site"}, False),
        ({"sec_fetch_site": "same-site"}, False),
        ({"origin": "null"}, False),
        ({"origin": "https://evil.example"}, False),
        ({"origin": "http://localhost:1"}, False),
        ({"origin": "http://[bad"}, False),
    ],
)
def test_what_another_web_page_sends_is_refused(served, path, headers, allowed):
    status, _, text = _ask(served, "POST", path, **headers)
    assert (status != 403) == allowed
    assert "evil" not in text
    own = served.url.rstrip("/")
    assert _ask(served, "POST", path, **{**headers, "origin": own})[0] != 403 or not allowed


def test_another_web_page_may_lead_to_this_one_and_no_further(served):
    assert _ask(served, sec_fetch_site="cross-site")[0] == 200
    api = "/gradio_api/queue/data?session_hash=x"
    assert _ask(served, path=api, sec_fetch_site="cross-site")[0] == 403


def test_what_a_proxy_would_say_is_not_reflected(served):
    said = {"x_forwarded_host": "evil.example", "x_forwarded_proto": "https"}
    for path in ("/", "/config"):
        status, headers, text = _ask(served, path=path, **said, forwarded="host=evil.example")
        assert status == 200
        assert "evil" not in text + str(headers)
        assert served.url.replace("http:", "https:").rstrip("/") not in text


def test_every_answer_forbids_what_the_page_does_not_need(served):
    for path in ("/", "/config", "/nothing", "/gradio_api/file=/etc/passwd"):
        headers = _ask(served, path=path)[1]
        policy = headers["content-security-policy"]
        assert "default-src 'none'; script-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


BRIGHTER = itertools.count(1)
ODD = [None, True, "x", "x" * 100_000, "NaN", [1], {"a": 1}, float("nan"), float("inf"), -1, 1e308]


@pytest.mark.parametrize("kind", ["number", "radio", "slider"])
@pytest.mark.parametrize("odd", ODD)
def test_whatever_a_field_holds_is_answered_or_refused_in_words(served, lenses, kind, odd):
    file = io.BytesIO()
    np.save(file, lenses.images[0, 0].numpy() * next(BRIGHTER))  # a file of its own
    (path,) = served.visitor.upload("lens.npy", file.getvalue()).json()
    try:
        text = served.visitor.classify(path, **{kind: odd})
    except RuntimeError as error:  # gradio's own check of the field
        text = str(error)
        Path(path).unlink(missing_ok=True)  # as minutes later, since nobody reads it
    else:
        assert "hf-" in text
        assert not Path(path).exists()
    assert str(served.uploads) not in text
    assert "Traceback" not in text
    assert len(text) < 200_000


def test_folders_of_the_server_stay_out_of_messages(predictor, tmp_path):
    from haloformer.app.given import without_folders

    deep = tmp_path / ("a" * 100) / ("b" * 100)
    deep.mkdir(parents=True)
    path = deep / ("c" * 200 + ".npy")
    path.write_bytes(b"no image")
    with pytest.raises(InputError) as caught:
        answers.classify(predictor, path)
    assert "/" not in str(caught.value)
    said = InputError("a.npy: /home/u/x/y.npy is bad, in counts/s or 1/2/3, see /tmp/z/w.fits: no")
    expected = "a.npy: y.npy is bad, in counts/s or 1/2/3, see w.fits: no"
    assert without_folders(said) == expected


def test_an_upload_over_the_limit_leaves_nothing(served):
    httpx = pytest.importorskip("httpx")
    size = answers.MAX_UPLOAD_BYTES
    before = files_below(served.uploads)
    host = served.url.split("/")[2]
    connection = http.client.HTTPConnection(host, timeout=30)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Type", "multipart/form-data; boundary=x")
    connection.putheader("Content-Length", str(size + 10**6))
    connection.endheaders()
    assert connection.getresponse().status == 413  # before anything is sent
    connection.close()

    def parts():  # of a length that is not announced
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.npy"\r\n\r\n'
        for _ in range(size // 2**20 + 1):
            yield bytes(2**20)
        yield b"\r\n--x--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    with contextlib.suppress(httpx.TransportError):  # the line may be cut
        assert (
            served.visitor.client.post(
                "/gradio_api/upload", content=parts(), headers=headers
            ).status_code
            >= 400
        )
    with contextlib.closing(
        http.client.HTTPConnection(host, timeout=30)
    ) as connection:  # one who hangs up
        connection.request(
            "POST",
            "/gradio_api/upload",
            next(parts()) + bytes(10**6),
            {**headers, "Content-Length": "9000000"},
        )
    for _ in range(600):  # the server notices when it has the time
        if files_below(served.uploads) == before:
            break
        time.sleep(0.1)
    assert files_below(served.uploads) == before


def test_what_nobody_reads_is_swept(tmp_path):
    pytest.importorskip("gradio")
    from haloformer.app.limits import Uploads

    kept, old, interrupted = (
        tmp_path / "a" / "kept.h5",
        tmp_path / "b" / "old.h5",
        tmp_path / "tmpxyz",
    )
    for path in (kept, old, interrupted):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    for path in (old, old.parent, interrupted):
        os.utime(path, (time.time() - 1000,) * 2)
    uploads = Uploads(tmp_path, 900)
    uploads.forget = [{str(kept), str(old)}]
    uploads.sweep()
    assert files_below(tmp_path) == [kept]
    assert uploads.forget == [{str(kept)}]


def test_a_file_that_two_have_uploaded_goes_with_the_second(tmp_path):
    pytest.importorskip("starlette")
    from haloformer.app.limits import Uploads

    uploads, path = Uploads(tmp_path, 900), tmp_path / "sha" / "a.npy"
    path.parent.mkdir()
    path.write_bytes(b"x")
    for _ in range(2):
        with uploads.under_way() as paths:
            paths.append(str(path))
    uploads.read(path)
    assert path.exists()
    with uploads.under_way():  # of a third, perhaps of the same file
        uploads.read(path)
        assert path.exists()
    assert not path.parent.exists()
    uploads.read("/etc/passwd")
    assert Path("/etc/passwd").exists()


def open_tab(page, name):
    """Opens a tab; on a narrow screen gradio may have put it into a menu."""
    tab = page.get_by_role("tab", name=name, exact=True)
    page.get_by_role("tab", name="Classify", exact=True).wait_for()
    if tab.count():
        tab.click()
    else:
        page.get_by_label("More tabs").click()
        page.locator(".overflow-dropdown").get_by_text(name, exact=True).click()


def test_the_page_in_a_browser(served, folder, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip("no browser on this machine")
    bad = tmp_path / "bad.npy"
    bad.write_bytes(b"<b>no image</b>")
    url = served.url
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 390, "height": 844})  # a telephone
        page.set_default_timeout(120_000)
        foreign: list[str] = []
        page.on(
            "request",
            lambda r: None if r.url.startswith((url, "data:", "blob:")) else foreign.append(r.url),
        )
        refused: list[str] = []
        page.on(
            "console",
            lambda m: refused.append(m.text) if "Content Security Policy" in m.text else None,
        )
        page.goto(url)
        page.set_input_files("#hf-file input[type=file]", str(folder / "lens_00.npy"))
        page.wait_for_selector("#hf-answer .hf-bars")
        assert "%" in page.inner_text("#hf-answer")
        first = page.get_attribute("#hf-pictures img", "src")
        page.get_by_label("linear").check()
        page.wait_for_function(
            "old => document.querySelector('#hf-pictures img').src !== old", arg=first
        )
        assert files_below(served.uploads) == []  # kept nowhere
        open_tab(page, "Simulate")
        page.wait_for_selector("#hf-lens img")
        before = page.get_attribute("#hf-lens img", "src")
        # A key is lost where the page is still being put together.
        for _ in range(12):
            page.locator("#hf-source_x input[type=range]").press("ArrowRight")
            with contextlib.suppress(playwright.TimeoutError):
                page.wait_for_function(
                    "old => document.querySelector('#hf-lens img').src !== old",
                    arg=before,
                    timeout=10_000,
                )
                break
        assert page.get_attribute("#hf-lens img", "src") != before
        page.wait_for_selector("#hf-lens-answer .hf-bars")
        open_tab(page, "Models")
        page.wait_for_selector("text=Trained models of this package")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.goto(url)
        page.set_input_files("#hf-file input[type=file]", str(bad))
        page.wait_for_selector("#hf-answer [role=alert]")
        assert "bad.npy is not a .npy file" in page.inner_text("#hf-answer")
        assert foreign == []
        assert refused == []
        browser.close()


CONTRASTS = """() => {
  const parse = c => { const n = (c.match(/[\\d.]+/g) || []).map(Number); return c.startsWith('color(srgb') ? [...n.slice(0, 3).map(x => 255 * x), n[3] ?? 1] : [n[0], n[1], n[2], n[3] ?? 1]; };
  const light = ([r, g, b]) => { const f = x => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const over = (top, below) => [0, 1, 2].map(k => top[3] * top[k] + (1 - top[3]) * below[k]);
  const behind = e => { const stack = []; for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); stack.push(c); if (c[3] === 1) break; }
    return stack.reverse().reduce((below, c) => over(c, below), [255, 255, 255]); };
  const poor = [];
  for (const e of document.querySelectorAll('body *')) {
    const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    const box = e.getBoundingClientRect();
    if (!own || !e.checkVisibility({ visibilityProperty: true, opacityProperty: true }) || box.width < 2 || e.closest('[disabled], [aria-disabled=true]')) continue;
    const back = behind(e), text = over(parse(getComputedStyle(e).color), back);
    const [low, high] = [light(text), light(back)].sort((a, b) => a - b);
    const ratio = (high + 0.05) / (low + 0.05);
    if (ratio < 4.5) poor.push([e.tagName, e.textContent.trim().slice(0, 40), ratio.toFixed(2)]);
  }
  return poor;
}"""
COVERED = """() => [...document.querySelectorAll('.hf-file')].filter(field => {
  const icon = field.querySelector('.icon-wrap, button svg'), label = field.querySelector('label');
  if (!icon || !label || !field.checkVisibility()) return false;
  const a = icon.getBoundingClientRect(), b = label.getBoundingClientRect();
  return a.width > 0 && a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
}).length"""
BROKEN = """() => [...document.querySelectorAll('.hf-table tbody th, .hf-table tbody td')].filter(cell => {
  const text = document.createRange();
  text.selectNodeContents(cell);
  const lines = new Set([...text.getClientRects()].map(line => Math.round(line.top)));
  return cell.checkVisibility() && /^[\\w.]+$/.test(cell.textContent.trim()) && lines.size > 1;
}).map(cell => cell.textContent)"""
TABS = ("Classify", "Fit", "Simulate", "Models")


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_every_tab_is_readable_and_fits_the_screen(served, folder, width, scheme):
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        pytest.skip("no browser on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        page.set_default_timeout(60_000)
        page.goto(served.url)
        page.set_input_files("#hf-file input[type=file]", str(folder / "lens_00.npy"))
        page.wait_for_selector("#hf-answer .hf-bars")
        open_tab(page, "Simulate")
        page.wait_for_selector("#hf-lens img")
        widths = set()
        for name in TABS:
            open_tab(page, name)
            page.wait_for_timeout(400)  # colours fade
            assert page.evaluate(CONTRASTS) == [], name
            assert page.evaluate(COVERED) == 0, name
            assert page.evaluate("document.documentElement.scrollWidth") == width, name
            widths.add(page.evaluate("document.querySelector('.gradio-container').clientWidth"))
        assert len(widths) == 1  # the page does not jump from tab to tab
        cells = page.locator(".hf-table td:visible")
        assert cells.count() > 20
        assert page.evaluate(BROKEN) == []  # no name is broken within
        if width < 400:  # nothing of a table lies beyond the screen
            edges = cells.evaluate_all("all => all.map(e => e.getBoundingClientRect().right)")
            assert max(edges) <= width
        for _ in range(12):  # what the keyboard reaches is seen to be reached
            page.keyboard.press("Tab")
            style = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            reached = page.evaluate("document.activeElement.tagName")
            assert reached == "BODY" or style == "solid", reached
        browser.close()
