package lab

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

const moduleFile = "go.mod"

// projectDir is where the project's go.mod is: above the working directory, which for a
// test is its package's, or above this program; else the working directory.
func projectDir() string {
	wd, err := os.Getwd()
	if err != nil {
		wd = "."
	}
	starts := []string{wd}
	if exe, err := os.Executable(); err == nil {
		starts = append(starts, filepath.Dir(exe))
	}
	for _, d := range starts {
		for ; ; d = filepath.Dir(d) {
			if _, err := os.Stat(filepath.Join(d, moduleFile)); err == nil {
				return d
			}
			if d == filepath.Dir(d) {
				break
			}
		}
	}
	return wd
}

// LogsDir is .lab-logs of the project: what is kept of machines whose test failed.
func LogsDir() string { return filepath.Join(projectDir(), ".lab-logs") }

// CacheDir is $VCN_CACHE/lab, or .cache/lab of the project.
func CacheDir() string {
	if d := os.Getenv("VCN_CACHE"); d != "" {
		return filepath.Join(d, "lab")
	}
	return filepath.Join(projectDir(), ".cache", "lab")
}

// StateDir is .lab of the project: a directory per machine that is there.
func StateDir() string { return filepath.Join(projectDir(), ".lab") }

// AgentPath is labd beside this program, or in the project's build directory.
func AgentPath() string {
	if exe, err := os.Executable(); err == nil {
		p := filepath.Join(filepath.Dir(exe), agentName)
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return filepath.Join(projectDir(), "build", agentName)
}

const agentName = "vcn-labd"

// sweep removes the machines of processes that are gone, which could not do it
// themselves. Their QEMU went with them.
func sweep(dir string) error {
	ds, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range ds {
		st, err := readState(filepath.Join(dir, d.Name()))
		if err != nil || st.Owner == 0 || sameProcess(st.Owner, st.Since) {
			continue
		}
		if st.PID != 0 && sameProcess(st.PID, st.Started) {
			continue // it is just ending
		}
		errs = append(errs, os.RemoveAll(filepath.Join(dir, d.Name())))
	}
	return errors.Join(errs...)
}
