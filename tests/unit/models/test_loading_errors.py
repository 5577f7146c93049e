"""Why a model was not loaded: the hint fits the cause, wherever the libraries hide it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils import httpx

from skipopt.errors import ModelError
from skipopt.models.loading import model_id
from skipopt.models.loading_errors import loading_error

REQUEST = httpx.Request("GET", "https://huggingface.co/org/model")
NAME = "org/model"


def answer(kind: type[errors.HfHubHTTPError], status: int) -> Exception:
    return kind("no", response=httpx.Response(status, request=REQUEST))


def wrapped(cause: Exception, text: str = "We couldn't connect to the hub") -> ModelError:
    """The error for an exception that transformers raises from another one."""
    try:
        try:
            raise cause
        except Exception as inner:
            raise OSError(text) from inner
    except OSError as error:
        return loading_error(NAME, "configuration", error)


def full(number: int) -> OSError:
    return OSError(number, os.strerror(number), "/cache/blobs")


@pytest.mark.parametrize(
    ("cause", "message", "hint"),
    [
        (answer(errors.GatedRepoError, 403), "is gated", "request access at"),
        (answer(errors.GatedRepoError, 403), "is gated", "hf auth login"),
        (answer(errors.RepositoryNotFoundError, 401), "was not found", "hf auth login"),
        (answer(errors.RevisionNotFoundError, 404), "no such revision", "branch"),
        (errors.HFValidationError("Repo id"), "was not found", "check the name"),
        (errors.LocalEntryNotFoundError("offline"), "cannot be reached", "connection"),
        (httpx.ConnectError("refused"), "cannot be reached", "connection"),
        (httpx.ReadTimeout("slow"), "cannot be reached", "connection"),
        (answer(errors.HfHubHTTPError, 503), "cannot be reached", "connection"),
        (full(errno.ENOSPC), "the disk is full at '/cache/blobs'", "HF_HOME="),
        (full(errno.EROFS), "no permission at '/cache/blobs'", "HF_HOME="),
        (full(errno.EACCES), "no permission at '/cache/blobs'", "HF_HOME="),
    ],
)
def test_the_hint_fits_the_cause(
    cause: Exception, message: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    error = wrapped(cause)
    assert message in str(error)
    assert hint in str(error.hint)


def test_offline_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for cause in (errors.LocalEntryNotFoundError("x"), errors.OfflineModeIsEnabled("x")):
        assert "HF_HUB_OFFLINE is set" in str(wrapped(cause).hint)
    assert "the weights of 'org/model'" in str(loading_error(NAME, "weights", cause))


@pytest.mark.parametrize("part", ["configuration", "weights", "tokenizer"])
def test_a_path_that_holds_a_word_of_a_message_is_no_network_error(
    tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "connect model type is not a local folder"
    folder.mkdir()
    error = loading_error(str(folder), part, ValueError(f"{folder} has no file"))
    assert "hub" not in str(error)
    assert "damaged or missing" in str(error.hint)


def test_a_folder_is_never_called_by_a_name_that_a_hub_may_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    assert model_id("org/model") == str(tmp_path / "org" / "model")
    assert model_id("org/other") == "org/other"
    assert model_id("builtin") == "builtin"


def test_without_a_home_a_path_with_a_tilde_is_only_a_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("HOME", raising=False)
    assert model_id("~nobody-of-this-name/model") == "~nobody-of-this-name/model"
