package sqlitestore

import (
	"context"
	"database/sql"
	"errors"
)

// statements keeps the statements of the writing connection compiled: compiling costs several times what
// running one does, and there are about twenty. Owned by the writing goroutine.
type statements struct {
	conn     *sql.Conn
	compiled map[string]*sql.Stmt
}

func (c *statements) of(ctx context.Context, query string) (*sql.Stmt, error) {
	if stmt := c.compiled[query]; stmt != nil {
		return stmt, nil
	}
	stmt, err := c.conn.PrepareContext(ctx, query)
	if err != nil {
		return nil, err
	}
	if c.compiled == nil {
		c.compiled = map[string]*sql.Stmt{}
	}
	c.compiled[query] = stmt
	return stmt, nil
}

func (c *statements) close() error {
	var errs []error
	for _, stmt := range c.compiled {
		errs = append(errs, stmt.Close())
	}
	return errors.Join(errs...)
}
