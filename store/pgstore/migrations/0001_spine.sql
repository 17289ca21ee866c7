-- One row: the life of this database and the revision counter. Whoever commits takes the row, then head + 1, so that
-- commit order is revision order and no number is missing. life says where the database was when its incarnation
-- began (see pgstore/life.go); empty: nobody has looked yet.
CREATE TABLE meta (
    id          integer PRIMARY KEY CHECK (id = 1),
    incarnation text    NOT NULL,
    life        text    NOT NULL,
    head        bigint  NOT NULL,
    compacted   bigint  NOT NULL
);

-- Order is that of bytes everywhere. body is mesh.Resource in JSON, byte for byte; the columns are what lists select
-- and sort by. Times are microseconds since 1970.
CREATE TABLE resources (
    origin     text   COLLATE "C" NOT NULL,
    kind       text   COLLATE "C" NOT NULL,
    namespace  text   COLLATE "C" NOT NULL,
    name       text   COLLATE "C" NOT NULL,
    revision   bigint NOT NULL,
    created_at bigint NOT NULL,
    labels     jsonb  NOT NULL,
    body       bytea  NOT NULL,
    PRIMARY KEY (origin, kind, namespace, name)
);
CREATE INDEX resources_by_kind ON resources (kind, namespace, name);
CREATE INDEX resources_by_revision ON resources (revision);
CREATE INDEX resources_by_label ON resources USING gin (labels jsonb_path_ops);

-- The change log, which feeds watches and is compacted.
CREATE TABLE commits (
    revision bigint PRIMARY KEY,
    at       bigint NOT NULL,
    actor    text   NOT NULL
);
CREATE TABLE changes (
    revision bigint  NOT NULL,
    seq      integer NOT NULL,
    deleted  boolean NOT NULL,
    body     bytea   NOT NULL,
    PRIMARY KEY (revision, seq)
);

-- Who changed what and why. Compaction leaves it alone; it is forgotten by age.
CREATE TABLE history (
    origin     text    COLLATE "C" NOT NULL,
    kind       text    COLLATE "C" NOT NULL,
    namespace  text    COLLATE "C" NOT NULL,
    name       text    COLLATE "C" NOT NULL,
    revision   bigint  NOT NULL,
    seq        integer NOT NULL,
    at         bigint  NOT NULL,
    actor      text    NOT NULL,
    source     text    NOT NULL,
    reason     text    NOT NULL,
    request_id text    NOT NULL,
    before     bytea,
    after      bytea,
    PRIMARY KEY (origin, kind, namespace, name, revision, seq)
);
CREATE INDEX history_by_age ON history (at);

CREATE TABLE idempotency (
    key    text   COLLATE "C" PRIMARY KEY,
    hash   bytea  NOT NULL,
    at     bigint NOT NULL,
    result bytea  NOT NULL
);
CREATE INDEX idempotency_by_age ON idempotency (at);

-- Small values outside of the revision counter, with a sequence per bucket. Both change often: room on the page keeps
-- the new version of a row beside the old one, without touching the index.
CREATE TABLE buckets (
    bucket   text   COLLATE "C" PRIMARY KEY,
    sequence bigint NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE records (
    bucket     text   COLLATE "C" NOT NULL,
    key        text   COLLATE "C" NOT NULL,
    value      bytea  NOT NULL,
    version    bigint NOT NULL,
    updated_at bigint NOT NULL,
    PRIMARY KEY (bucket, key)
) WITH (fillfactor = 70);
