-- History is forgotten by age.
CREATE INDEX history_at ON history (at);
