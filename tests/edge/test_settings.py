"""Settings: where they come from, which wins, and one error that names all that is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roomful.edge.settings import (
    DEV_SECRET,
    BadSettings,
    Settings,
    conformance_settings,
    load_settings,
    settings_table,
    variable_of,
)

SECRET = "a-secret-of-the-tests-that-is-long-enough"
SIGNED = {"ROOMFUL_AUTH_SECRET": SECRET}
KEYS = [row[0] for row in settings_table(Settings())]


def load(environment: dict[str, str] | None = None, **overrides: Any) -> Settings:
    """Load settings with a secret."""
    return load_settings(SIGNED | (environment or {}), overrides=overrides)


def problems_of(
    environment: dict[str, str], file: Path | None = None, **overrides: Any
) -> list[str]:
    """Give what is wrong with settings."""
    with pytest.raises(BadSettings) as caught:
        load_settings(environment, file=file, overrides=overrides)
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A file with settings of each kind."""
    path = tmp_path / "roomful.toml"
    path.write_text(
        f"""
        port = 1111
        origins = ["https://a.example", "https://b.example"]
        ping_interval_s = 5
        recovery = false

        [auth]
        secret = "{SECRET}"
        issuer = "me"

        [limits]
        payload_bytes = 2000
        """
    )
    return path


# Sources ---------------------------------------------------------------------------------------


def test_a_secret_is_all_that_is_needed() -> None:
    """Everything else has a default that is fit for production."""
    loaded = load()
    assert loaded.auth.secret == SECRET
    assert (loaded.dev, loaded.access.allow_all, loaded.origins) == (False, False, ())
    assert loaded.auth_query_token is False


def test_environment() -> None:
    """Each kind of value in its textual form."""
    loaded = load(
        {
            "ROOMFUL_PORT": "9000",
            "ROOMFUL_PING_INTERVAL_S": "2.5",
            "ROOMFUL_RECOVERY": "false",
            "ROOMFUL_ORIGINS": "https://a.example, https://b.example,",
            "ROOMFUL_LIMITS_PAYLOAD_BYTES": "5000",
            "ROOMFUL_AUTH_ISSUER": "me",
            "PORT": "1",
            "HOME": "/",
        }
    )
    assert (loaded.port, loaded.ping_interval_s, loaded.recovery) == (9000, 2.5, False)
    assert loaded.origins == ("https://a.example", "https://b.example")
    assert loaded.limits.payload_bytes == 5000
    assert loaded.auth.issuer == "me"


def test_an_empty_variable_is_none_where_none_can_be() -> None:
    """So that a default which is not None can be taken back; text stays empty text."""
    loaded = load({"ROOMFUL_AUTH_AUDIENCE": "", "ROOMFUL_STATE_DIR": "", "ROOMFUL_ORIGINS": ""})
    assert (loaded.auth.audience, loaded.state_dir, loaded.origins) == (None, "", ())


def test_file(config: Path) -> None:
    """Tables are groups, values have their types."""
    loaded = load_settings({}, file=config, overrides={})
    assert (loaded.port, loaded.ping_interval_s, loaded.recovery) == (1111, 5.0, False)
    assert loaded.origins == ("https://a.example", "https://b.example")
    assert (loaded.auth.issuer, loaded.limits.payload_bytes) == ("me", 2000)


def test_which_wins(config: Path) -> None:
    """Options over the environment over the file over the defaults, each key for itself."""
    environment = {"ROOMFUL_PORT": "2222", "ROOMFUL_LIMITS_PAYLOAD_BYTES": "3000"}
    loaded = load_settings(environment, file=config, overrides={"port": 3333})
    assert (loaded.port, loaded.limits.payload_bytes, loaded.auth.issuer) == (3333, 3000, "me")


@settings(max_examples=30)
@given(st.sampled_from(KEYS))
def test_every_key_has_one_variable(key: str) -> None:
    """ROOMFUL_, upper case, and no two keys share one."""
    variable = variable_of(key)
    assert variable.startswith("ROOMFUL_")
    assert variable == variable.upper()
    assert [other for other in KEYS if variable_of(other) == variable] == [key]


# What is wrong ---------------------------------------------------------------------------------


def test_one_error_names_all_that_is_wrong(tmp_path: Path) -> None:
    """From the file, the environment and the options, unknown names and bad values."""
    path = tmp_path / "roomful.toml"
    path.write_text("nonsense = 1\nport = 'x'\n[limits]\nnonsense = 2\nattachments = 1.5\n")
    environment = {"ROOMFUL_NONSENSE": "1", "ROOMFUL_RECOVERY": "maybe"}
    problems = problems_of(environment, path, ping_timeout_s="soon")
    expected = ["nonsense", "limits.nonsense", "ROOMFUL_NONSENSE", "port", "limits.attachments"]
    expected += ["recovery", "ping_timeout_s", "nobody could sign in"]
    assert len(problems) == len(expected)
    for name in expected:
        assert any(name in problem for problem in problems), (name, problems)


def test_one_group_that_is_wrong_hides_nothing_else() -> None:
    """What is wrong in a group, with the shards, and between settings: all in one message."""
    environment = {
        "ROOMFUL_LOG_AGE_S": "-1",
        "ROOMFUL_SHARDS": "nonsense",
        "ROOMFUL_PORT": "99999",
        "ROOMFUL_ARCHIVE_KEEP": "1",
    }
    with pytest.raises(BadSettings) as caught:
        load_settings(environment, overrides={})
    said = "\n".join(caught.value.problems)
    for words in (
        "age_s",
        "shards: number 1",
        "port 99999",
        "ARCHIVE_KEEP",
        "nobody could sign in",
    ):
        assert words in said


def test_a_group_that_is_wrong_is_not_taken_for_one_that_is_not_there() -> None:
    """Who has set a secret, and something bad beside it, is not told to set one."""
    environment = {"ROOMFUL_AUTH_SECRET": "x" * 40, "ROOMFUL_AUTH_LEEWAY_S": "soon"}
    with pytest.raises(BadSettings) as caught:
        load_settings(environment, overrides={})
    assert not any("nobody could sign in" in one for one in caught.value.problems)


def test_problems_name_key_and_variable() -> None:
    """Whoever reads it knows where to look, whichever way it was set."""
    (problem,) = problems_of({"ROOMFUL_LIMITS_ATTACHMENTS": "many"} | SIGNED)
    assert "limits.attachments" in problem
    assert "ROOMFUL_LIMITS_ATTACHMENTS" in problem


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [
        ("PORT", "65536", "port"),
        ("PORT", "-1", "port"),
        ("PING_INTERVAL_S", "0", "ping_interval_s"),
        ("PING_TIMEOUT_S", "-1", "ping_timeout_s"),
        ("RECOVERY_WINDOW_S", "0", "recovery_window_s"),
        ("DRAIN_WINDOW_S", "-0.1", "drain_window_s"),
        ("LOG_LEVEL", "loud", "loud"),
        ("LOG_FORMAT", "xml", "xml"),
        ("ACCESS_ALLOW_ALL", "true", "allow_all"),
        ("LIMITS_PAYLOAD_BYTES", "0", "payload_bytes"),
        ("AUTH_SECRET", "short", "secret"),
        ("AUTH_LEEWAY_S", "-1", "leeway_s"),
        ("AUTH_JWKS_URL", "ftp://x", "jwks_url"),
        ("AUTH_PUBLIC_KEYS", "no PEM", "public key"),
        ("LOG_MESSAGES_PER_ROOM", "0", "messages_per_room"),
        ("LOG_AGE_S", "nan", "age_s"),
        ("LOG_TOTAL_BYTES", "-1", "total_bytes"),
        ("PRESENCE_GRACE_S", "-1", "grace_s"),
        ("PRESENCE_LIST_LIMIT", "-1", "list_limit"),
        ("MEMORY_PENDING_BYTES", "0", "pending_bytes"),
        ("MEMORY_IDS", "0", "ids"),
        ("MEMORY_ID_WINDOW_S", "inf", "id_window_s"),
        ("MEMORY_SESSIONS", "-5", "sessions"),
        ("ORIGINS", "app.example.com", "origins: 'app.example.com'"),
        (
            "ORIGINS",
            "https://a.example, https://b.example/chat",
            "origins: 'https://b.example/chat'",
        ),
    ],
)
def test_values_that_cannot_be_meant(variable: str, value: str, word: str) -> None:
    """Each is refused in a sentence that names it."""
    (problem,) = problems_of(SIGNED | {f"ROOMFUL_{variable}": value})
    assert word in problem


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "https://a.example/", "http://[::1]:80", "capacitor://localhost", "file://"],
)
def test_origins_that_browsers_send(origin: str) -> None:
    """Also of apps in a shell, and a slash at the end is forgiven."""
    settings = load_settings(SIGNED | {"ROOMFUL_ORIGINS": origin}, overrides={})
    assert settings.origins == (origin,)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    "name", ["PING_INTERVAL_S", "PING_TIMEOUT_S", "RECOVERY_WINDOW_S", "DRAIN_WINDOW_S"]
)
def test_times_are_numbers_of_seconds(name: str, value: str) -> None:
    """What is not finite is no time."""
    (problem,) = problems_of(SIGNED | {f"ROOMFUL_{name}": value})
    assert name.lower() in problem


@pytest.mark.parametrize("text", ["port = ", "port = 1\nport = 2", "\x00"])
def test_a_file_that_is_no_toml(tmp_path: Path, text: str) -> None:
    """The file is named."""
    path = tmp_path / "roomful.toml"
    path.write_text(text)
    (problem,) = problems_of(SIGNED, path)
    assert str(path) in problem


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    """Asked for and missing is an error, not the defaults."""
    (problem,) = problems_of(SIGNED, tmp_path / "none.toml")
    assert "none.toml" in problem


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    """Neither is one that is not UTF-8."""
    path = tmp_path / "roomful.toml"
    path.write_bytes(b"host = '\xff'")
    (problem,) = problems_of(SIGNED, path)
    assert "roomful.toml" in problem


# Development -----------------------------------------------------------------------------------


def test_nobody_could_sign_in() -> None:
    """Without a key and without --dev there is no server."""
    (problem,) = problems_of({})
    assert "ROOMFUL_AUTH_SECRET" in problem


def test_the_development_secret_is_for_development() -> None:
    """Everyone knows it, so it opens nothing outside --dev, however it came in."""
    (problem,) = problems_of({"ROOMFUL_AUTH_SECRET": DEV_SECRET})
    assert "development secret" in problem
    assert load_settings({}, overrides={"dev": True}).auth.secret == DEV_SECRET


@pytest.mark.parametrize("value", ["true", "1"])
def test_dev_from_the_environment(value: str) -> None:
    """The same as the option."""
    loaded = load_settings({"ROOMFUL_DEV": value}, overrides={})
    assert loaded == load_settings({}, overrides={"dev": True})


@pytest.mark.parametrize("value", ["True", "TRUE"])
def test_dev_in_capitals(value: str) -> None:
    """A boolean is read as all other booleans are."""
    loaded = load_settings({"ROOMFUL_DEV": value}, overrides={})
    assert loaded == load_settings({}, overrides={"dev": True})


def test_dev_opens_what_a_laptop_needs(config: Path) -> None:
    """Only on this machine; and whatever is set stays as it is set."""
    loaded = load_settings({}, overrides={"dev": True})
    assert (loaded.host, loaded.origins) == ("127.0.0.1", ("*",))
    assert loaded.access.allow_all
    assert loaded.auth_query_token
    own = load_settings({"ROOMFUL_HOST": "::1"}, file=config, overrides={"dev": True})
    assert (own.host, own.auth.secret) == ("::1", SECRET)
    assert own.origins == ("https://a.example", "https://b.example")


def test_conformance_needs_no_secret_and_recovers_nothing() -> None:
    """The official suites ask for short times, and a CONNECT reply without pid."""
    loaded = conformance_settings(load_settings({}, overrides={"conformance": True, "port": 7}))
    assert (loaded.recovery, loaded.state_dir, loaded.port) == (False, "", 7)
    assert (loaded.ping_interval_s, loaded.ping_timeout_s) == (0.3, 0.2)
    assert loaded.auth.secret not in (None, DEV_SECRET)


# Secrets ---------------------------------------------------------------------------------------


def test_the_table_shows_no_secrets() -> None:
    """`--check-config` prints every setting, and of secrets only that they are set."""
    loaded = load({"ROOMFUL_ACCESS_WEBHOOK_SECRET": "hush-hush-hush-hush"})
    table = settings_table(loaded)
    shown = {key: value for key, _, value in table}
    assert shown["auth.secret"] == '"(set)"'
    # What is not set is not said to be.
    assert shown["archive.url"] == '""'
    assert shown["redis.password"] == "null"
    assert shown["auth.issuer"] == "null"
    assert shown["port"] == "8080"
    assert all(SECRET not in value and "hush" not in value for value in shown.values())
    assert [variable for _, variable, _ in table] == [variable_of(key) for key in KEYS]


@pytest.mark.parametrize(
    ("key", "url", "shown"),
    [
        ("auth.jwks_url", "https://me:hush@idp.example/keys", "https://(set)@idp.example/keys"),
        ("auth.jwks_url", "https://idp.example/keys?token=hush", "https://idp.example/keys?(set)"),
        ("access.webhook_url", "https://a:hu@sh@app.example:8/", "https://(set)@app.example:8/"),
        ("access.webhook_url", "https://app.example/@me", "https://app.example/@me"),
    ],
)
def test_the_table_shows_no_credentials_in_urls(key: str, url: str, shown: str) -> None:
    """Neither who signs in, nor a query, which may be a token."""
    settings: Any = Settings()
    part, name = key.split(".")
    inner = replace(getattr(settings, part), **{name: url})
    table = {row[0]: row[2] for row in settings_table(replace(settings, **{part: inner}))}
    assert table[key] == f'"{shown}"'


def test_nothing_prints_a_secret() -> None:
    """Neither the settings nor what is wrong with them."""
    assert SECRET not in repr(load())
    problems = problems_of({"ROOMFUL_AUTH_SECRET": "the-wrong-one", "ROOMFUL_PORT": "x"})
    assert not any("the-wrong-one" in problem for problem in problems)


def test_heartbeats_are_fine_enough_for_their_times() -> None:
    """The wheel's tick is a small part of the shortest time, and never above half a second."""
    assert load().timer_tick_s == 0.5
    assert load({"ROOMFUL_PING_TIMEOUT_S": "0.2"}).timer_tick_s == pytest.approx(0.01)


@pytest.mark.parametrize(
    "endpoint",
    [
        "collector:4318",
        "ftp://collector",
        "http://",
        "http://me:secret@collector:4318",
        "http://collector:4318/?key=secret",
        "http://collector:nope",
    ],
)
def test_tracing_endpoint_that_is_no_plain_http_address_is_refused_without_being_shown(
    endpoint: str,
) -> None:
    """One may hold a key, so the message says what it should be like, and no more."""
    problems = problems_of(SIGNED | {"ROOMFUL_TRACING_ENDPOINT": endpoint})
    assert problems == ["tracing: endpoint has to be like http://collector:4318"]


@pytest.mark.parametrize("ratio", ["-0.1", "1.5", "nan"])
def test_tracing_ratio_is_a_part_of_one(ratio: str) -> None:
    """0 traces only what is asked for, 1 everything."""
    problems = problems_of(SIGNED | {"ROOMFUL_TRACING_RATIO": ratio})
    assert problems == [f"tracing: ratio {float(ratio)} is not between 0 and 1"]


def test_tracing_endpoint_is_a_base_or_the_path_of_otlp_itself() -> None:
    """Both are what people copy from elsewhere."""
    for endpoint in ("http://c:4318", "http://c:4318/", "http://c:4318/v1/traces"):
        settings = load({"ROOMFUL_TRACING_ENDPOINT": endpoint, "ROOMFUL_TRACING_RATIO": "0.5"})
        assert settings.tracing.url == "http://c:4318/v1/traces"
        assert settings.tracing.ratio == 0.5
