// Package swf reads and writes traces of batch jobs in the Standard Workload
// Format, version 2.2, that of the Parallel Workloads Archive (D. G. Feitelson
// and others, https://www.cs.huji.ac.il/labs/parallel/workload/swf.html).
//
// It imports nothing of ours.
//
//	; Computer: …        ┐ header: comments before the first job
//	; MaxProcs: 128      ┘
//	1 0 5 60 4 -1 …      ─▶ Reader.Next ─▶ Job ─▶ Writer.Write ─▶ 1 0 5 60 4 -1 …
//
// Bounds: TraceBytesMax of text, after any decompression, LineBytesMax of one
// line, HeaderFieldsMax of the header. Memory does not grow with the trace.
//
// # Decisions and trade-offs
//
//   - The reader is strict: 18 fields, plain decimal numbers, -1 for what is not
//     known and nothing else below zero, a submit time. An error names the line
//     and the field. Rejected: to pass over lines that cannot be read, as then a
//     damaged trace gives a report that looks right.
//   - The order of submit times is not demanded although the format does: logs
//     that were put together of several machines break it, and whoever
//     replays a trace sorts it anyway.
//   - Times are floats, which the format allows; counts are not.
package swf
