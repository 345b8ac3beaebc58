package cli

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
	"sigs.k8s.io/yaml"

	"vcn/api"
)

// encode is v as a whole document in a form for programs; nil for people.
func encode(form string, v any) ([]byte, error) {
	switch form {
	case outputJSON:
		b, err := json.MarshalIndent(v, "", "  ")
		return append(b, '\n'), err
	case outputYAML:
		return yaml.Marshal(v)
	}
	return nil, nil
}

// encodeNext is v as one document of many: an object on a line, or a YAML
// document after its marker.
func encodeNext(form string, v any) ([]byte, error) {
	if form == outputYAML {
		b, err := yaml.Marshal(v)
		return append([]byte("---\n"), b...), err
	}
	b, err := json.Marshal(v)
	return append(b, '\n'), err
}

// print writes v in the form asked for; asTable writes it for people.
func (a *app) print(v any, asTable func()) error {
	b, err := encode(a.flags.output, v)
	switch {
	case err != nil:
		return fmt.Errorf("encode answer: %w", err)
	case b == nil:
		asTable()
	default:
		fmt.Fprintf(a.stdout, "%s", b)
	}
	return nil
}

// printList writes a list: {"items": […]} as the API has it, or a table.
func printList[T any](a *app, items []T, header []string, row func(T) []string) error {
	if items == nil {
		items = []T{}
	}
	return a.print(api.List[T]{Items: items}, func() {
		rows := make([][]string, len(items))
		for i, v := range items {
			rows[i] = row(v)
		}
		fmt.Fprint(a.stdout, renderTable(header, rows))
	})
}

// renderTable is a table without lines, two spaces between columns.
func renderTable(header []string, rows [][]string) string {
	t := table.NewWriter()
	t.SetStyle(table.Style{
		Name:    "plain",
		Box:     table.BoxStyle{PaddingRight: "  "},
		Options: table.OptionsNoBordersAndSeparators,
	})
	t.SuppressTrailingSpaces()
	t.AppendHeader(tableRow(header))
	for _, r := range rows {
		t.AppendRow(tableRow(r))
	}
	var b strings.Builder
	for line := range strings.Lines(t.Render() + "\n") {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
	return b.String()
}

func tableRow(cells []string) table.Row {
	r := make(table.Row, len(cells))
	for i, c := range cells {
		if c = strings.ReplaceAll(printable(c), "\n", " "); c == "" {
			c = "-"
		}
		r[i] = c
	}
	return r
}

// pairs writes aligned "key: value" lines; empty values are left out.
func (a *app) pairs(kv ...string) {
	width := 0
	for i := 0; i < len(kv); i += 2 {
		width = max(width, len(kv[i]))
	}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			fmt.Fprintf(a.stdout, "%-*s  %s\n", width+1, kv[i]+":", strings.ReplaceAll(printable(kv[i+1]), "\n", " "))
		}
	}
}

// note says something on the side.
func (a *app) note(format string, args ...any) {
	fmt.Fprintf(a.stderr, "vcnctl: "+format+"\n", args...)
}

// clockTime shows a moment in the user's zone, as the API reads it.
func (a *app) clockTime(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.In(a.zone).Format("2006-01-02T15:04Z07:00")
}

// span shows how long something took or lasts.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	}
	return api.FormatDuration(d)
}

// patience says that a request is slow, once it has been silent for a while
// and then again from time to time. The returned function ends that.
func (a *app) patience(what string) (stop func()) {
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		start := a.now()
		timer := time.NewTimer(a.patienceAfter)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return
			case <-timer.C:
				a.note("waiting for %s (%s)", what, span(a.now().Sub(start)))
				timer.Reset(5 * a.patienceAfter)
			}
		}
	})
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}
