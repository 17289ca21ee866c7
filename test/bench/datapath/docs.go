package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Between these a bench writes what it measured; the rest of a page is people's.
const (
	docsBegin = "<!-- bench:begin %s -->\n"
	docsEnd   = "<!-- bench:end -->\n"
)

// writeDocs writes tables, by name, into the pages below dir that have a place for them. A table without a place is an
// error, so that none is lost.
func writeDocs(dir string, tables map[string]string) error {
	var pages []string
	for _, pattern := range []string{"*.md", "policies/*.md"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return err
		}
		pages = append(pages, found...)
	}
	var placed []string
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		out, names, err := replaceTables(string(text), tables)
		if err != nil {
			return fmt.Errorf("%s: %w", page, err)
		}
		placed = append(placed, names...)
		if out == string(text) {
			continue
		}
		if err := os.WriteFile(page, []byte(out), 0o600); err != nil {
			return err
		}
	}
	for _, name := range sortedKeys(tables) {
		if !slices.Contains(placed, name) {
			return fmt.Errorf("no page below %s has a place for the table %s ("+strings.TrimSpace(docsBegin)+")", dir, name, name)
		}
	}
	return nil
}

// replaceTables returns a page with its tables replaced, and which.
func replaceTables(page string, tables map[string]string) (out string, names []string, err error) {
	for _, name := range sortedKeys(tables) {
		begin := fmt.Sprintf(docsBegin, name)
		before, rest, ok := strings.Cut(page, begin)
		if !ok {
			continue
		}
		_, after, ok := strings.Cut(rest, docsEnd)
		if !ok {
			return "", nil, fmt.Errorf("%s has no %s", strings.TrimSpace(begin), strings.TrimSpace(docsEnd))
		}
		page = before + begin + tables[name] + docsEnd + after
		names = append(names, name)
	}
	return page, names, nil
}
