// Package sqlitestore is the embedded engine of store.Store: one SQLite file, for zones, the demo and
// small global control planes. It is the only package that knows SQLite.
//
// One goroutine owns the only connection that writes. It takes whatever calls are waiting, runs each
// in a savepoint of one transaction and commits them together, so that a burst of applies costs one
// fsync and every apply still has its own revision. Readers have connections of their own and never
// wait for the writer (WAL). A call that was answered is on the disk (synchronous=FULL), but for what
// store.Recoverable allows to be lost with the machine's power: those calls form groups of their own
// (synchronous=NORMAL), which the next durable one takes to the disk with it. The WAL keeps order, so a
// power loss takes away an end, never a middle.
//
// # Restored databases
//
// Beside the file `x.db` lies `x.db.life`: a random id that the database also holds, and the newest
// revision, written after each durable commit. A database that is older than the life file says, that has
// another id, or that has no life file beside it was restored or copied, and one that was open when the
// machine's run ended may have lost the end of what did not wait for the disk: it begins a new incarnation,
// and whoever held a cursor is told so. To move a database to another place without that, move both
// files. A backup that puts both files back at once can't be seen from here; a client whose
// cursor is ahead then learns it from store.ErrFuture. The life file is also the lock that keeps
// a second process out.
package sqlitestore
