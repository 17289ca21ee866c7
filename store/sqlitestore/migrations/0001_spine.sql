-- One row: the life of this database and the revision counter. Whoever commits takes head + 1 inside
-- the transaction, so that commit order is revision order and no number is missing.
CREATE TABLE meta (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    incarnation TEXT    NOT NULL,
    life        TEXT    NOT NULL,
    head        INTEGER NOT NULL,
    compacted   INTEGER NOT NULL
) STRICT;

-- body is mesh.Resource as JSON; the columns are what lists select and sort by.
CREATE TABLE resources (
    origin     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    created_at INTEGER NOT NULL, -- microseconds since 1970
    labels     TEXT    NOT NULL, -- a JSON object
    body       BLOB    NOT NULL,
    PRIMARY KEY (origin, kind, namespace, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX resources_by_kind ON resources (kind, namespace, name);
CREATE INDEX resources_by_revision ON resources (revision);

-- The change log, which feeds watches and is compacted.
CREATE TABLE commits (
    revision INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL,
    actor    TEXT    NOT NULL
) STRICT;

CREATE TABLE changes (
    revision INTEGER NOT NULL,
    seq      INTEGER NOT NULL,
    deleted  INTEGER NOT NULL,
    body     BLOB    NOT NULL,
    PRIMARY KEY (revision, seq)
) STRICT, WITHOUT ROWID;

-- Who changed what and why. Compaction leaves it alone.
CREATE TABLE history (
    origin     TEXT    NOT NULL,
    kind       TEXT    NOT NULL,
    namespace  TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    revision   INTEGER NOT NULL,
    seq        INTEGER NOT NULL,
    at         INTEGER NOT NULL,
    actor      TEXT    NOT NULL,
    source     TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    request_id TEXT    NOT NULL,
    before     BLOB,
    after      BLOB,
    PRIMARY KEY (origin, kind, namespace, name, revision, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
    key    TEXT    PRIMARY KEY,
    hash   BLOB    NOT NULL,
    at     INTEGER NOT NULL,
    result BLOB    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_by_age ON idempotency (at);

-- Small values outside of the revision counter, with a sequence per bucket.
CREATE TABLE buckets (
    bucket   TEXT    PRIMARY KEY,
    sequence INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE records (
    bucket     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    value      BLOB    NOT NULL,
    version    INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    PRIMARY KEY (bucket, key)
) STRICT, WITHOUT ROWID;
