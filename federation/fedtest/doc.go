// Package fedtest runs federation sessions in memory against faults: streams that are cut, slow or
// restarted, stores that are compacted, restored or crash between a batch and its cursor. Its property is
// convergence: when faults end, every zone holds exactly what global meant for it, and global exactly what
// each zone has.
package fedtest
