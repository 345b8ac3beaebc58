package rolls

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// Limits of one roll.
const (
	RollFileBytesMax   = 64 << 10 // roll.yaml
	FileBytesMax       = 1 << 20  // each of its files
	RollBytesMax       = 8 << 20  // all its files
	FilesMax           = 256      // files in its directory
	ListMax            = 512      // entries in any list of roll.yaml
	SecretBytesMax     = 4096     // a random secret
	SecretBytesDefault = 32       // where bytes is not given
)

const rollFile = "roll.yaml"

// Load reads the roll in directory dir of fsys: roll.yaml, strictly, and every
// other file below dir. Errors wrap ErrInvalid (with one *FieldError for each
// wrong field, joined), ErrTooLarge, or what fsys says.
func Load(fsys fs.FS, dir string) (*Roll, error) {
	b, err := readLimited(fsys, path.Join(dir, rollFile), RollFileBytesMax)
	if err != nil {
		return nil, fmt.Errorf("load roll %s: %w", dir, err)
	}
	var r Roll
	if err := yaml.UnmarshalStrict(b, &r); err != nil {
		return nil, fmt.Errorf("load %w", &FieldError{
			Roll: dir, Field: rollFile, Want: "the fields of docs/rolls.md: " + yamlReason(err)})
	}
	if err := checkQuotes(dir, b); err != nil {
		return nil, fmt.Errorf("load %w", err)
	}
	if r.Files, err = readFiles(fsys, dir); err != nil {
		return nil, fmt.Errorf("load roll %s: %w", dir, err)
	}
	if err := r.validate(dir); err != nil {
		return nil, fmt.Errorf("load roll:\n%w", err)
	}
	return &r, nil
}

// checkQuotes refuses versions and modes written as YAML numbers, which the
// strict reader would turn into strings: 1.10 into 1.1, and 0644 (octal in YAML
// 1.1) into 420.
func checkQuotes(dir string, b []byte) error {
	var tree any
	if err := yaml.Unmarshal(b, &tree); err != nil {
		return &FieldError{Roll: dir, Field: rollFile, Want: "YAML: " + yamlReason(err)}
	}
	var walk func(field string, v any) error
	walk = func(field string, v any) error {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(v)) {
				at := strings.TrimPrefix(field+"."+k, ".")
				if _, str := v[k].(string); (at == "version" || k == "mode") && v[k] != nil && !str {
					return &FieldError{Roll: dir, Field: at, Value: fmt.Sprint(v[k]), Want: "it in quotes: YAML reads it as a number"}
				}
				if err := walk(at, v[k]); err != nil {
					return err
				}
			}
		case []any:
			for i := range v {
				if err := walk(fmt.Sprintf("%s[%d]", field, i), v[i]); err != nil {
					return err
				}
			}
		}
		return nil
	}
	return walk("", tree)
}

// yamlReason strips the libraries' prefixes, which mean nothing to an author.
func yamlReason(err error) string {
	s := err.Error()
	for _, p := range []string{"error unmarshaling JSON: ", "error converting YAML to JSON: ", "while decoding JSON: ", "json: ", "yaml: "} {
		s = strings.TrimPrefix(s, p)
	}
	return s
}

func readFiles(fsys fs.FS, dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	total := 0
	err := fs.WalkDir(fsys, dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, dir), "/")
		if dir == "." {
			rel = p
		}
		if d.IsDir() || rel == rollFile {
			return nil
		}
		if !d.Type().IsRegular() {
			return &FieldError{Roll: dir, Field: rel, Value: d.Type().String(), Want: "a regular file (no links, no devices)"}
		}
		if len(files) >= FilesMax {
			return fmt.Errorf("%w: more than %d files", ErrTooLarge, FilesMax)
		}
		b, err := readLimited(fsys, p, FileBytesMax)
		if err != nil {
			return err
		}
		if total += len(b); total > RollBytesMax {
			return fmt.Errorf("%w: files of more than %d bytes", ErrTooLarge, RollBytesMax)
		}
		files[rel] = b
		return nil
	})
	return files, err
}

func readLimited(fsys fs.FS, name string, max int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) && path.Base(name) == rollFile {
			return nil, fmt.Errorf("%w: no %s: %w", ErrInvalid, rollFile, err)
		}
		return nil, fmt.Errorf("read roll's file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrTooLarge, name, max)
	}
	return b, nil
}
