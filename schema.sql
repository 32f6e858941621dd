-- The database of Livermore: what must outlive Redis. The only source of the schema.
--
-- `livermore db apply` brings a database to this state and `livermore db check` compares the two.
-- The file is plain DDL, so that other tools can take it as their desired state as well:
--   atlas schema apply --url "$LIVERMORE_DATABASE_URL" --to file://schema.sql \
--     --dev-url docker://postgres/16 --dry-run
--
-- Rules: no psql commands, no functions, no DO; every constraint and index has a name; names are
-- not qualified, tables live in the first schema of the search_path; one statement ends with ; at
-- the end of a line.

-- Exchanges: facts, as the program knows them. `livermore db seed` writes all of it anew.
CREATE TABLE exchanges (
    id text NOT NULL,
    title text NOT NULL,
    websocket_url text NOT NULL,
    rest_url text NOT NULL,
    documentation text,
    timeframes text[] NOT NULL,
    limits jsonb NOT NULL DEFAULT '{}',
    maker_fee numeric(9, 8),
    taker_fee numeric(9, 8),
    fee_note text,
    geo_refuses text[] NOT NULL DEFAULT '{}',
    geo_only text[] NOT NULL DEFAULT '{}',
    geo_alternative text,
    geo_note text,
    country text,
    allowed boolean,
    active boolean NOT NULL DEFAULT true,
    seeded_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT exchanges_pkey PRIMARY KEY (id),
    CONSTRAINT exchanges_id_check CHECK (id ~ '^[a-z][a-z0-9_]{0,31}$'),
    CONSTRAINT exchanges_websocket_url_check CHECK (websocket_url ~ '^wss?://'),
    CONSTRAINT exchanges_rest_url_check CHECK (rest_url ~ '^https?://'),
    CONSTRAINT exchanges_timeframes_check CHECK (cardinality(timeframes) > 0),
    CONSTRAINT exchanges_limits_check CHECK (jsonb_typeof(limits) = 'object'),
    CONSTRAINT exchanges_maker_fee_check CHECK (maker_fee > -1 AND maker_fee < 1),
    CONSTRAINT exchanges_taker_fee_check CHECK (taker_fee > -1 AND taker_fee < 1),
    CONSTRAINT exchanges_country_check CHECK (country ~ '^[A-Z]{2}$'),
    CONSTRAINT exchanges_allowed_check CHECK ((allowed IS NULL) = (country IS NULL))
);

-- Exchanges: what the operator knows better. Nothing but people write here; NULL: the fact holds.
CREATE TABLE exchange_overrides (
    exchange_id text NOT NULL,
    websocket_url text,
    rest_url text,
    maker_fee numeric(9, 8),
    taker_fee numeric(9, 8),
    allowed boolean,
    active boolean,
    note text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT exchange_overrides_pkey PRIMARY KEY (exchange_id),
    CONSTRAINT exchange_overrides_exchange_id_fkey FOREIGN KEY (exchange_id)
        REFERENCES exchanges (id) ON DELETE CASCADE,
    CONSTRAINT exchange_overrides_websocket_url_check CHECK (websocket_url ~ '^wss?://'),
    CONSTRAINT exchange_overrides_rest_url_check CHECK (rest_url ~ '^https?://'),
    CONSTRAINT exchange_overrides_maker_fee_check CHECK (maker_fee > -1 AND maker_fee < 1),
    CONSTRAINT exchange_overrides_taker_fee_check CHECK (taker_fee > -1 AND taker_fee < 1)
);

-- A user is the subject of an identity provider. The subject is part of keys and channels in Redis.
CREATE TABLE users (
    id bigint GENERATED ALWAYS AS IDENTITY,
    identity_provider text NOT NULL,
    identity_sub text NOT NULL,
    role text NOT NULL DEFAULT 'user',
    enabled boolean NOT NULL DEFAULT true,
    settings jsonb NOT NULL DEFAULT '{}',
    settings_version integer NOT NULL DEFAULT 1,
    settings_revision bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT users_pkey PRIMARY KEY (id),
    CONSTRAINT users_identity_key UNIQUE (identity_provider, identity_sub),
    CONSTRAINT users_identity_provider_check CHECK (identity_provider ~ '^[a-z0-9][a-z0-9_.-]{0,63}$'),
    CONSTRAINT users_identity_sub_check CHECK (identity_sub ~ '^[A-Za-z0-9][A-Za-z0-9_.@|-]{0,63}$'),
    CONSTRAINT users_role_check CHECK (role IN ('user', 'admin')),
    CONSTRAINT users_settings_check CHECK (jsonb_typeof(settings) = 'object'),
    CONSTRAINT users_settings_version_check CHECK (settings_version > 0),
    CONSTRAINT users_settings_revision_check CHECK (settings_revision >= 0),
    CONSTRAINT users_updated_at_check CHECK (updated_at >= created_at)
);

CREATE INDEX users_identity_sub_idx ON users (identity_sub);

-- What a user's settings were: the document after each change. settings_version says which form the
-- document has, the revision counts its changes (compare-and-set).
CREATE TABLE user_settings_history (
    user_id bigint NOT NULL,
    revision bigint NOT NULL,
    settings jsonb NOT NULL,
    settings_version integer NOT NULL,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by text NOT NULL DEFAULT '',
    what text NOT NULL DEFAULT '',
    CONSTRAINT user_settings_history_pkey PRIMARY KEY (user_id, revision),
    CONSTRAINT user_settings_history_user_id_fkey FOREIGN KEY (user_id)
        REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT user_settings_history_revision_check CHECK (revision >= 0),
    CONSTRAINT user_settings_history_settings_check CHECK (jsonb_typeof(settings) = 'object'),
    CONSTRAINT user_settings_history_settings_version_check CHECK (settings_version > 0)
);

-- Which exchanges a user uses, and the NAMES of the environment variables that hold the credentials.
CREATE TABLE user_exchanges (
    user_id bigint NOT NULL,
    exchange_id text NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    key_variable text,
    secret_variable text,
    passphrase_variable text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_exchanges_pkey PRIMARY KEY (user_id, exchange_id),
    CONSTRAINT user_exchanges_user_id_fkey FOREIGN KEY (user_id)
        REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT user_exchanges_exchange_id_fkey FOREIGN KEY (exchange_id)
        REFERENCES exchanges (id) ON DELETE RESTRICT,
    CONSTRAINT user_exchanges_key_variable_check
        CHECK (key_variable ~ '^[A-Z_][A-Z0-9_]{0,99}$' AND key_variable !~ '^LIVERMORE_'),
    CONSTRAINT user_exchanges_secret_variable_check
        CHECK (secret_variable ~ '^[A-Z_][A-Z0-9_]{0,99}$' AND secret_variable !~ '^LIVERMORE_'),
    CONSTRAINT user_exchanges_passphrase_variable_check
        CHECK (passphrase_variable ~ '^[A-Z_][A-Z0-9_]{0,99}$' AND passphrase_variable !~ '^LIVERMORE_')
);

CREATE INDEX user_exchanges_exchange_id_idx ON user_exchanges (exchange_id);

-- What an exchange lists, by the 24 hour volume in the quote currency.
CREATE TABLE exchange_symbols (
    exchange_id text NOT NULL,
    symbol text NOT NULL,
    native text NOT NULL,
    base text NOT NULL,
    quote text NOT NULL,
    quote_volume_24h double precision,
    price double precision,
    rank integer,
    active boolean NOT NULL DEFAULT true,
    refreshed_at timestamptz NOT NULL,
    CONSTRAINT exchange_symbols_pkey PRIMARY KEY (exchange_id, symbol),
    CONSTRAINT exchange_symbols_exchange_id_fkey FOREIGN KEY (exchange_id)
        REFERENCES exchanges (id) ON DELETE CASCADE,
    CONSTRAINT exchange_symbols_symbol_check CHECK (symbol ~ '^[^\s:,@{}*?/-]+(-[^\s:,@{}*?/-]+)+$'),
    CONSTRAINT exchange_symbols_quote_volume_24h_check
        CHECK (quote_volume_24h >= 0 AND quote_volume_24h < 'Infinity'),
    CONSTRAINT exchange_symbols_price_check CHECK (price > 0 AND price < 'Infinity'),
    CONSTRAINT exchange_symbols_rank_check CHECK (rank > 0)
);

CREATE INDEX exchange_symbols_rank_idx ON exchange_symbols (exchange_id, rank) WHERE active;

-- Symbols a user follows beside those everybody follows, and why: several reasons may hold at once.
-- Those of the user's settings are written anew with each change of the settings.
CREATE TABLE user_symbol_subscriptions (
    user_id bigint NOT NULL,
    exchange_id text NOT NULL,
    symbol text NOT NULL,
    source text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT user_symbol_subscriptions_pkey PRIMARY KEY (user_id, exchange_id, symbol, source),
    CONSTRAINT user_symbol_subscriptions_user_id_fkey FOREIGN KEY (user_id)
        REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT user_symbol_subscriptions_exchange_id_fkey FOREIGN KEY (exchange_id)
        REFERENCES exchanges (id) ON DELETE RESTRICT,
    CONSTRAINT user_symbol_subscriptions_symbol_check
        CHECK (symbol ~ '^[^\s:,@{}*?/-]+(-[^\s:,@{}*?/-]+)+$'),
    CONSTRAINT user_symbol_subscriptions_source_check
        CHECK (source IN ('position', 'manual', 'settings'))
);

CREATE INDEX user_symbol_subscriptions_symbol_idx ON user_symbol_subscriptions (exchange_id, symbol);

-- What a user holds on an exchange, as the exchange said it last. NULL: it did not say.
CREATE TABLE positions (
    user_id bigint NOT NULL,
    exchange_id text NOT NULL,
    asset text NOT NULL,
    symbol text,
    quantity numeric NOT NULL,
    held numeric,
    price numeric,
    average_price numeric,
    cost_basis numeric,
    unrealized_pnl numeric,
    currency text,
    as_of timestamptz NOT NULL,
    CONSTRAINT positions_pkey PRIMARY KEY (user_id, exchange_id, asset),
    CONSTRAINT positions_user_id_fkey FOREIGN KEY (user_id)
        REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT positions_exchange_id_fkey FOREIGN KEY (exchange_id)
        REFERENCES exchanges (id) ON DELETE RESTRICT,
    CONSTRAINT positions_quantity_check CHECK (quantity >= 0 AND quantity < 'Infinity'),
    CONSTRAINT positions_held_check CHECK (held >= 0 AND held <= quantity),
    CONSTRAINT positions_price_check CHECK (price > 0 AND price < 'Infinity'),
    CONSTRAINT positions_symbol_check CHECK (symbol ~ '^[^\s:,@{}*?/-]+(-[^\s:,@{}*?/-]+)+$')
);

CREATE INDEX positions_symbol_idx ON positions (exchange_id, symbol);

-- Everything the outbox of an exchange ever held: alerts, withdrawals, blindness and its end. The
-- claim is what makes an entry the same as another: the alert's id, how often it was issued anew, and
-- whether this is its withdrawal. A withdrawal also marks the alert it unmakes.
CREATE TABLE alert_history (
    id bigint GENERATED ALWAYS AS IDENTITY,
    exchange_id text NOT NULL,
    claim text NOT NULL,
    kind text NOT NULL,
    alert_id text NOT NULL,
    reissue integer NOT NULL DEFAULT 0,
    rule text,
    symbol text,
    timeframe text,
    open_time timestamptz,
    revision integer,
    triggered_at timestamptz NOT NULL,
    entry jsonb NOT NULL,
    withdrawn_at timestamptz,
    withdrawn_why text,
    stream_id text NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT alert_history_pkey PRIMARY KEY (id),
    CONSTRAINT alert_history_claim_key UNIQUE (exchange_id, claim),
    CONSTRAINT alert_history_exchange_id_fkey FOREIGN KEY (exchange_id)
        REFERENCES exchanges (id) ON DELETE RESTRICT,
    CONSTRAINT alert_history_kind_check
        CHECK (kind IN ('alert', 'withdrawal', 'blind', 'recovery')),
    CONSTRAINT alert_history_alert_check CHECK (
        kind NOT IN ('alert', 'withdrawal')
        OR (rule IS NOT NULL AND symbol IS NOT NULL AND timeframe IS NOT NULL
            AND open_time IS NOT NULL AND revision IS NOT NULL)
    ),
    CONSTRAINT alert_history_timeframe_check CHECK (timeframe IN ('5m', '15m', '1h', '4h', '1d')),
    CONSTRAINT alert_history_revision_check CHECK (revision >= 0),
    CONSTRAINT alert_history_reissue_check CHECK (reissue >= 0),
    CONSTRAINT alert_history_entry_check CHECK (jsonb_typeof(entry) = 'object'),
    CONSTRAINT alert_history_withdrawn_check CHECK (
        (withdrawn_at IS NULL) = (withdrawn_why IS NULL)
        AND (withdrawn_at IS NULL OR kind = 'alert')
    )
);

CREATE INDEX alert_history_triggered_at_idx ON alert_history (exchange_id, triggered_at DESC);
CREATE INDEX alert_history_symbol_idx ON alert_history (exchange_id, symbol, triggered_at DESC);

-- Keys to our own doors. Never a key: its SHA-256, and its first characters, to tell keys apart.
CREATE TABLE api_keys (
    id bigint GENERATED ALWAYS AS IDENTITY,
    user_id bigint NOT NULL,
    name text NOT NULL,
    prefix text NOT NULL,
    key_hash bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    expires_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT api_keys_pkey PRIMARY KEY (id),
    CONSTRAINT api_keys_key_hash_key UNIQUE (key_hash),
    CONSTRAINT api_keys_name_key UNIQUE (user_id, name),
    CONSTRAINT api_keys_user_id_fkey FOREIGN KEY (user_id)
        REFERENCES users (id) ON DELETE CASCADE,
    CONSTRAINT api_keys_name_check CHECK (char_length(name) BETWEEN 1 AND 64),
    CONSTRAINT api_keys_prefix_check CHECK (char_length(prefix) BETWEEN 1 AND 12),
    CONSTRAINT api_keys_key_hash_check CHECK (octet_length(key_hash) = 32),
    CONSTRAINT api_keys_expires_at_check CHECK (expires_at > created_at)
);
