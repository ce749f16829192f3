-- The newest document that was seen of each line, written each second: data on a server that started anew and has not come
-- as far is an older file or a copy that lagged, also where nobody was let in since.
CREATE TABLE line_documents (
  sale  text    PRIMARY KEY REFERENCES sales (id) ON DELETE CASCADE,
  epoch integer NOT NULL,
  seq   bigint  NOT NULL
);
