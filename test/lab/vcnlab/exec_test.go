package main

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"vcn/test/lab"
)

func TestFlagsThatNameFilesOfTheHostAreTranslated(t *testing.T) {
	got, results := translate([]string{
		"-test.testlogfile=/w/testlog.txt", "-test.paniconexit0", "-test.timeout=5m0s", "-test.run=TestLab", "-test.v=true",
		"-test.outputdir=/home/me", "-test.coverprofile=/w/cover.out", "-test.gocoverdir=/w/cov", "--test.cpuprofile=cpu.out",
		"-args", "-test.testlogfile=mine",
	}, "/tmp/x")
	want := []string{"-test.paniconexit0", "-test.timeout=5m0s", "-test.run=TestLab", "-test.v=true",
		"-test.coverprofile=/tmp/x/out-coverprofile", "-test.cpuprofile=/tmp/x/out-cpuprofile", "-args", "-test.testlogfile=mine"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	files := []result{{"/tmp/x/out-coverprofile", "/w/cover.out"}, {"/tmp/x/out-cpuprofile", "/home/me/cpu.out"}}
	if diff := cmp.Diff(files, results, cmp.AllowUnexported(result{})); diff != "" {
		t.Error(diff)
	}
}

func TestSizesAndDisks(t *testing.T) {
	for s, want := range map[string]int64{"0": 0, "512": 512, "3KiB": 3 << 10, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		if got, err := parseBytes(s); got != want || err != nil {
			t.Errorf("%s: %d, %v; want %d", s, got, err, want)
		}
	}
	for _, s := range []string{"", "GiB", "-1", "1.5GiB", "1GB", "99999999TiB"} {
		if _, err := parseBytes(s); err == nil {
			t.Errorf("%q is a size", s)
		}
	}
	got, err := parseDisks("2,1GiB,none")
	if diff := cmp.Diff([]lab.Disk{{SizeBytes: 1 << 30, Cache: "none"}, {SizeBytes: 1 << 30, Cache: "none"}}, got); diff != "" || err != nil {
		t.Error(err, diff)
	}
	if got, err := parseDisks("0"); got != nil || err != nil {
		t.Errorf("no disks: %v, %v", got, err)
	}
	for _, s := range []string{"", "x", "2", "2,", "-1,1GiB", "1,1GiB,none,more"} {
		if _, err := parseDisks(s); err == nil {
			t.Errorf("%q are disks", s)
		}
	}
}

func TestUnknownCommandsAreAMatterOfUsage(t *testing.T) {
	for _, args := range [][]string{{"fly"}, {"up", "--colour", "red"}, {"exec"}, {"put", "one"}} {
		if err := run(t.Context(), args); !errors.Is(err, errUsage) {
			t.Errorf("%v: %v, want %v", args, err, errUsage)
		}
	}
}
