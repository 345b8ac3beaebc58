package volume

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// lvFields and vgFields are what lvs and vgs are asked for.
const (
	lvFields = "lv_name,lv_uuid,lv_size,lv_tags,lv_layout,lv_active,lv_device_open,lv_permissions,lv_time," +
		"pool_lv,origin,chunk_size,lv_metadata_size,zero,discards,lv_when_full,lv_skip_activation"
	vgFields = "vg_name,vg_size,vg_free_count,vg_extent_size,vg_missing_pv_count,vg_mda_size,vg_mda_free"
)

// group is a volume group as vgs shows it.
type group struct {
	name        string
	sizeBytes   int64
	freeExtents int64
	extentBytes int64
	missingPVs  int64
	mdaBytes    int64 // one metadata area of a physical volume
	mdaFree     int64 // what the text of the metadata can still grow by
}

// lv is a logical volume as lvs shows it.
type lv struct {
	name, uuid     string
	sizeBytes      int64
	tags           []string
	layout         []string // "thin", "sparse", "pool", …
	active, open   bool
	readOnly       bool
	madeUnix       int64
	pool, origin   string
	chunkBytes     int64
	metadataBytes  int64
	zeroes         bool   // new blocks of this pool read as zeroes
	discards       string // passdown, nopassdown, ignore
	whenFull       string // error, queue
	skipActivation bool
}

func (v *lv) has(tag string) bool { return slices.Contains(v.tags, tag) }

// tagged returns what follows the tag with that prefix.
func (v *lv) tagged(prefix string) (string, bool) {
	for _, t := range v.tags {
		if rest, ok := strings.CutPrefix(t, prefix); ok {
			return rest, true
		}
	}
	return "", false
}

func (v *lv) isPool() bool {
	return slices.Contains(v.layout, "pool") && slices.Contains(v.layout, "thin")
}

// dataBytes is what was copied into an image volume. lvs knows nothing of what
// is inactive, and an image volume never changes.
func (v *lv) dataBytes() int64 {
	s, _ := v.tagged(tagData)
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// row is one line of a report; LVM writes every value as a string.
type row map[string]string

// number reads a field in bytes or pieces; an empty one is 0.
func (r row) number(field string, bad *error) int64 {
	s := r[field]
	if s == "" {
		return 0
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && *bad == nil {
		*bad = fmt.Errorf("field %s: %w", field, err)
	}
	return n
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, ",")
}

// parseReport reads the rows of one kind ("lv", "vg") of lvmreport(7)'s JSON.
func parseReport(out []byte, kind string) ([]row, error) {
	var doc struct {
		Report []map[string][]row `json:"report"`
	}
	if err := json.Unmarshal(out, &doc); err != nil {
		return nil, fmt.Errorf("read LVM's report: %w", err)
	}
	if len(doc.Report) == 0 {
		return nil, fmt.Errorf("read LVM's report: it is empty")
	}
	var rows []row
	for _, r := range doc.Report {
		got, ok := r[kind]
		if !ok {
			return nil, fmt.Errorf("read LVM's report: no %q in it", kind)
		}
		rows = append(rows, got...)
	}
	return rows, nil
}

func parseGroup(r row) (group, error) {
	var bad error
	g := group{
		name: r["vg_name"], sizeBytes: r.number("vg_size", &bad), freeExtents: r.number("vg_free_count", &bad),
		extentBytes: r.number("vg_extent_size", &bad), missingPVs: r.number("vg_missing_pv_count", &bad),
		mdaBytes: r.number("vg_mda_size", &bad), mdaFree: r.number("vg_mda_free", &bad),
	}
	if bad == nil && (g.name == "" || g.extentBytes <= 0) {
		bad = fmt.Errorf("volume group without a name or extents: %v", r)
	}
	if bad != nil {
		return group{}, fmt.Errorf("read LVM's report: %w", bad)
	}
	return g, nil
}

func parseLV(r row) (lv, error) {
	var bad error
	v := lv{
		name: r["lv_name"], uuid: r["lv_uuid"], sizeBytes: r.number("lv_size", &bad), tags: list(r["lv_tags"]),
		layout: list(r["lv_layout"]), active: r["lv_active"] == "active", open: r["lv_device_open"] == "open",
		readOnly: strings.HasPrefix(r["lv_permissions"], "read-only"), madeUnix: r.number("lv_time", &bad),
		pool: r["pool_lv"], origin: r["origin"], chunkBytes: r.number("chunk_size", &bad),
		metadataBytes: r.number("lv_metadata_size", &bad),
		zeroes:        r["zero"] == "zero", discards: r["discards"], whenFull: r["lv_when_full"],
		skipActivation: r["lv_skip_activation"] != "",
	}
	if bad == nil && (v.name == "" || v.uuid == "") {
		bad = fmt.Errorf("logical volume without a name or UUID: %v", r)
	}
	if bad != nil {
		return lv{}, fmt.Errorf("read LVM's report: %w", bad)
	}
	return v, nil
}

// poolStatus is the kernel's word on a thin pool.
type poolStatus struct {
	mode                    string // rw, ro, out_of_data_space, Fail, Error
	needsCheck              bool
	dataUsed, dataTotal     int64 // blocks of chunkBytes
	metaUsed, metaTotal     int64 // blocks of 4 KiB
	errorsWhenFull, passing bool
}

// parsePoolStatus reads a line of dmsetup status (Linux:
// Documentation/admin-guide/device-mapper/thin-provisioning.rst, "Status"):
//
//	0 <sectors> thin-pool <transaction> <used>/<total metadata> <used>/<total data>
//	  <held root> rw|ro|out_of_data_space [no_]discard_passdown|ignore_discard
//	  error_if_no_space|queue_if_no_space needs_check|- <low metadata>
func parsePoolStatus(line string) (poolStatus, error) {
	f := strings.Fields(line)
	if len(f) < 4 || f[2] != "thin-pool" {
		return poolStatus{}, fmt.Errorf("read status of thin pool: %q", line)
	}
	if f[3] == "Fail" || f[3] == "Error" {
		return poolStatus{mode: f[3]}, nil
	}
	var s poolStatus
	if len(f) < 8 {
		return poolStatus{}, fmt.Errorf("read status of thin pool: %q", line)
	}
	for _, p := range []struct {
		text        string
		used, total *int64
	}{{f[4], &s.metaUsed, &s.metaTotal}, {f[5], &s.dataUsed, &s.dataTotal}} {
		used, total, ok := strings.Cut(p.text, "/")
		var err error
		if *p.used, err = strconv.ParseInt(used, 10, 64); err == nil {
			*p.total, err = strconv.ParseInt(total, 10, 64)
		}
		if !ok || err != nil || *p.total <= 0 || *p.used < 0 || *p.used > *p.total {
			return poolStatus{}, fmt.Errorf("read status of thin pool: %q of %q", p.text, line)
		}
	}
	s.mode = f[7]
	for _, w := range f[8:] {
		switch w {
		case "needs_check":
			s.needsCheck = true
		case "error_if_no_space":
			s.errorsWhenFull = true
		case "discard_passdown":
			s.passing = true
		}
	}
	return s, nil
}

func (s poolStatus) dataPercent() float64 { return percentOf(s.dataUsed, s.dataTotal) }
func (s poolStatus) metaPercent() float64 { return percentOf(s.metaUsed, s.metaTotal) }

func percentOf(used, total int64) float64 {
	if total == 0 {
		return 0
	}
	return 100 * float64(used) / float64(total)
}
