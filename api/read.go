package api

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"sort"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"
)

// SpecSizeMax bounds a specification's text, in bytes.
const SpecSizeMax = 1 << 20

// fieldErrorsMax bounds how many field errors one answer carries.
const fieldErrorsMax = 50

// ReadSpec reads one specification in YAML or JSON, at most SpecSizeMax bytes.
// It is strict: unknown fields, values of the wrong kind, duplicate keys and a
// second document are errors. It neither fills in defaults nor validates. The
// error is a *Problem with all field errors, or that of the reader.
func ReadSpec(r io.Reader) (Spec, error) {
	var s Spec
	if err := ReadStrict(r, SpecSizeMax, &s); err != nil {
		return Spec{}, err
	}
	return s, nil
}

// ReadStrict reads one YAML or JSON document of at most max bytes into the
// struct that v points to, as ReadSpec does.
func ReadStrict(r io.Reader, max int64, v any) error {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return fmt.Errorf("read text: %w", err)
	}
	if int64(len(data)) > max {
		return &Problem{Title: "Payload Too Large", Status: 413, Code: CodeTooLarge,
			Detail: fmt.Sprintf("the text is larger than %s", Quantity(max))}
	}
	if hasSecondDocument(data) {
		return Invalid("the text holds more than one YAML document; give one", nil)
	}
	plain, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return Invalid("cannot read the text as YAML or JSON: "+cleanYAMLError(err), nil)
	}
	return decodePlain(plain, v)
}

// decodePlain decodes JSON into v after checking it against v's type.
func decodePlain(plain []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.UseNumber()
	var tree any
	if err := dec.Decode(&tree); err != nil {
		return Invalid("cannot read the text: "+err.Error(), nil)
	}
	if tree == nil {
		return Invalid("the text is empty", nil)
	}
	w := walker{}
	tree = w.walk("", tree, reflect.TypeOf(v).Elem(), fieldRule{})
	if len(w.errs) > 0 {
		return Invalid(countErrors(len(w.errs)), w.errs)
	}
	plain, err := json.Marshal(tree)
	if err == nil {
		err = json.Unmarshal(plain, v)
	}
	if err != nil {
		return Invalid("cannot read the text: "+err.Error(), nil)
	}
	return nil
}

func countErrors(n int) string {
	if n == 1 {
		return "one field is wrong"
	}
	return strconv.Itoa(n) + " fields are wrong"
}

// hasSecondDocument looks for a document marker after content. At the start of
// a line it can be nothing else: block text is indented.
func hasSecondDocument(data []byte) bool {
	content := false
	for line := range bytes.Lines(data) {
		t := bytes.TrimRight(line, " \t\r\n")
		switch {
		case bytes.Equal(t, []byte("---")) || bytes.HasPrefix(t, []byte("--- ")):
			if content {
				return true
			}
			content = len(t) > 3 // "--- {…}" has content on its own line
		case len(t) > 0 && t[0] != '#' && t[0] != '%':
			content = true
		}
	}
	return false
}

// cleanYAMLError makes one line of the library's list.
func cleanYAMLError(err error) string {
	s := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	s = strings.TrimPrefix(s, "yaml: ")
	s = strings.TrimPrefix(s, "unmarshal errors:")
	return strings.Join(strings.Fields(s), " ")
}

// walker checks a plain tree against Go types and collects what is wrong.
type walker struct{ errs []FieldError }

func (w *walker) bad(field, value, want string) {
	if len(w.errs) < fieldErrorsMax {
		w.errs = append(w.errs, FieldError{Field: field, Value: value, Want: want})
	}
}

var quantityType = reflect.TypeFor[Quantity]()

// walk returns v with what encoding/json would not take made right (the number
// 0 as a Quantity).
// rule is that of the field that v belongs to.
func (w *walker) walk(path string, v any, t reflect.Type, rule fieldRule) any {
	if v == nil {
		return nil
	}
	if t == quantityType {
		return w.quantity(path, v)
	}
	switch t.Kind() {
	case reflect.Pointer:
		return w.walk(path, v, t.Elem(), rule)
	case reflect.Map:
		m, ok := v.(map[string]any)
		if !ok {
			w.bad(path, plainText(v), rule.wantMap())
			return nil
		}
		return w.entries(path, m, t.Elem(), rule)
	case reflect.Struct:
		m, ok := v.(map[string]any)
		if !ok {
			w.bad(path, plainText(v), "fields: "+strings.Join(fieldNames(t), ", "))
			return nil
		}
		return w.fields(path, m, t)
	case reflect.Slice:
		l, ok := v.([]any)
		if !ok {
			w.bad(path, plainText(v), "a list: ["+plainText(v)+"]")
			return nil
		}
		for i := range l {
			l[i] = w.walk(fmt.Sprintf("%s[%d]", path, i), l[i], t.Elem(), rule)
		}
	case reflect.String:
		if _, ok := v.(string); !ok {
			w.bad(path, plainText(v), rule.wantText(plainText(v)))
		}
	case reflect.Bool:
		if _, ok := v.(bool); !ok {
			w.bad(path, plainText(v), "true or false")
		}
	case reflect.Int, reflect.Int64, reflect.Uint64:
		n, ok := v.(json.Number)
		if !ok {
			w.bad(path, plainText(v), wantNumber(v))
		} else if _, err := strconv.ParseInt(n.String(), 10, 64); err != nil {
			w.bad(path, n.String(), "a whole number")
		}
	}
	return v
}

func (w *walker) quantity(path string, v any) any {
	s, ok := v.(string)
	if n, isNumber := v.(json.Number); isNumber {
		s, ok = n.String(), true
	}
	if !ok {
		w.bad(path, plainText(v), wantQuantity)
		return nil
	}
	if _, err := ParseQuantity(s); err != nil {
		w.bad(path, s, err.(FieldError).Want)
		return nil
	}
	return s
}

func (w *walker) fields(path string, m map[string]any, t reflect.Type) any {
	known := fieldTypes(t)
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if len(w.errs) >= fieldErrorsMax {
			break
		}
		at := key
		if path != "" {
			at = path + "." + key
		}
		f, ok := known[key]
		if !ok {
			w.bad(at, "", "a known field; "+nearField(key, fieldNames(t)))
			continue
		}
		wrong := len(w.errs)
		m[key] = w.walk(at, m[key], f.typ, f.rule)
		if len(w.errs) == wrong && f.rule.notZero != "" && isZero(m[key]) {
			w.bad(at, plainText(m[key]), f.rule.notZero)
		}
	}
	return m
}

// entries walks a map from names to values. Nothing (null, or a name with no
// value in YAML) is not taken for zero: it would be for a count.
func (w *walker) entries(path string, m map[string]any, t reflect.Type, rule fieldRule) any {
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if len(w.errs) >= fieldErrorsMax {
			break
		}
		if m[key] == nil {
			w.bad(path+"."+key, "", "a value; "+rule.wantMap())
			continue
		}
		m[key] = w.walk(path+"."+key, m[key], t, fieldRule{})
	}
	return m
}

// knownField is a field that may be written.
type knownField struct {
	typ  reflect.Type
	rule fieldRule
}

// fieldTypes is a struct's JSON names with their types and rules, embedded
// structs included.
func fieldTypes(t reflect.Type) map[string]knownField {
	out := map[string]knownField{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			for n, ft := range fieldTypes(f.Type) {
				out[n] = ft
			}
		case f.IsExported() && name != "" && name != "-":
			out[name] = knownField{f.Type, fieldRules[t][name]}
		}
	}
	return out
}

func fieldNames(t reflect.Type) []string {
	var names []string
	for n := range fieldTypes(t) {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

// fieldAliases are words people use for a field of another name.
var fieldAliases = map[string]string{
	"ram": "memory", "mem": "memory", "cores": "cpus", "vcpus": "cpus", "storage": "disk",
	"nodes": "workers", "until": "end", "duration": "for", "length": "for", "sshkeys": "keys",
	"packages": "rolls", "replicas": "count", "sudo": "admin", "from": "start",
	"timezone": "zone", "tz": "zone", "rrule": "repeat", "exdate": "except", "exceptions": "except", "email": "mail", "url": "webhook",
}

// nearField names the known field that is closest to an unknown one, or all.
func nearField(key string, known []string) string {
	low := strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(key))
	if a := fieldAliases[low]; slices.Contains(known, a) {
		return fmt.Sprintf("did you mean %q?", a)
	}
	best, bestDistance := "", len(low)/2+1
	if bestDistance > 3 {
		bestDistance = 3
	}
	for _, k := range known {
		if d := editDistance(low, strings.ToLower(k)); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	if best != "" {
		return fmt.Sprintf("did you mean %q?", best)
	}
	return "the fields here are " + strings.Join(known, ", ")
}

// editDistance is Levenshtein's, over bytes; a is cut to 64 of them.
func editDistance(a, b string) int {
	if len(a) > 64 {
		a = a[:64]
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		diagonal := row[0]
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			diagonal, row[j] = row[j], min(row[j]+1, row[j-1]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// plainText shows a value of the wrong kind in one short line.
func plainText(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil || len(b) > fieldValueMax {
		return fmt.Sprintf("%.40s...", b)
	}
	return string(b)
}
