package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

const (
	accountsPath = "etc/vcn/accounts" // passwd(5) lines of the cluster's users
	adminsPath   = "etc/vcn/admins"   // names, one a line, who join adminGroup
	adminGroup   = "sudo"
	userUIDMin   = 1000 // below are the system's own; Debian policy 9.2.2
)

// account is one passwd(5) line.
type account struct {
	name     string
	uid, gid int
	line     string
}

// tables are the four files of accounts, as lines.
type tables struct {
	passwd, group, shadow, gshadow []string
}

// mergeAccounts adds the seed's accounts to the image's own.
func mergeAccounts(root *os.Root) error {
	text, err := readOptional(root, accountsPath)
	if err != nil || text == "" {
		return err
	}
	accounts, err := parseAccounts(text)
	if err != nil {
		return err
	}
	admins, err := readOptional(root, adminsPath)
	if err != nil {
		return err
	}
	var t tables
	files := []struct {
		name  string
		lines *[]string
		mode  fs.FileMode
	}{
		{"etc/passwd", &t.passwd, 0o644}, {"etc/group", &t.group, 0o644},
		{"etc/shadow", &t.shadow, 0o640}, {"etc/gshadow", &t.gshadow, 0o640},
	}
	for _, f := range files {
		b, err := readOptional(root, f.name)
		if err != nil {
			return err
		}
		*f.lines = splitLines(b)
	}
	if err := t.merge(accounts, strings.Fields(admins)); err != nil {
		return err
	}
	for _, f := range files {
		uid, gid, mode := ownerOf(root, f.name, f.mode)
		b := strings.Join(*f.lines, "\n") + "\n"
		if err := replaceFile(root, f.name, []byte(b), mode, uid, gid); err != nil {
			return err
		}
	}
	return nil
}

func readOptional(root *os.Root, name string) (string, error) {
	b, err := root.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(bytes.TrimRight(b, "\n")), err
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// ownerOf returns owner and mode of an existing file, so that replacing it
// keeps them.
func ownerOf(root *os.Root, name string, mode fs.FileMode) (uid, gid int, m fs.FileMode) {
	fi, err := root.Stat(name)
	if err != nil {
		return os.Getuid(), os.Getgid(), mode
	}
	if st, ok := fi.Sys().(*syscall.Stat_t); ok {
		uid, gid = int(st.Uid), int(st.Gid)
	}
	return uid, gid, fi.Mode().Perm()
}

// parseAccounts reads passwd(5) lines strictly.
func parseAccounts(text string) ([]account, error) {
	var as []account
	for i, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		f := strings.Split(line, ":")
		if len(f) != 7 || f[0] == "" {
			return nil, fmt.Errorf("%s line %d: want name:x:uid:gid:gecos:home:shell", accountsPath, i+1)
		}
		uid, err1 := strconv.Atoi(f[2])
		gid, err2 := strconv.Atoi(f[3])
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("%s line %d: %w", accountsPath, i+1, err)
		}
		if uid < userUIDMin || gid < userUIDMin {
			return nil, fmt.Errorf("%s line %d: %s: numbers below %d are the system's", accountsPath, i+1, f[0], userUIDMin)
		}
		as = append(as, account{f[0], uid, gid, line})
	}
	return as, nil
}

// merge adds or updates the accounts and makes the admins members of the
// admins' group. What the image or the owner has added stays as it is: an
// existing password, another shell or name, other members, other accounts.
func (t *tables) merge(as []account, admins []string) error {
	for _, a := range as {
		if i := find(t.passwd, a.name); i >= 0 {
			old, err := strconv.Atoi(field(t.passwd[i], 2))
			if err != nil || old < userUIDMin {
				return fmt.Errorf("account %s: the name belongs to the system", a.name)
			}
			if field(t.passwd[i], 2) != strconv.Itoa(a.uid) || field(t.passwd[i], 3) != strconv.Itoa(a.gid) {
				t.passwd[i] = a.line
			}
		} else {
			t.passwd = append(t.passwd, a.line)
		}
		gid := strconv.Itoa(a.gid)
		if i := find(t.group, a.name); i < 0 {
			t.group = append(t.group, a.name+":x:"+gid+":")
		} else if field(t.group[i], 2) != gid {
			return fmt.Errorf("group %s: exists with the number %s, want %s", a.name, field(t.group[i], 2), gid)
		}
		if find(t.shadow, a.name) < 0 {
			// "*": no password will do; the key is the way in.
			t.shadow = append(t.shadow, a.name+":*:19000:0:99999:7:::")
		}
		if find(t.gshadow, a.name) < 0 {
			t.gshadow = append(t.gshadow, a.name+":!::")
		}
	}
	return t.addAdmins(admins)
}

func (t *tables) addAdmins(admins []string) error {
	if len(admins) == 0 {
		return nil
	}
	for _, lines := range []*[]string{&t.group, &t.gshadow} {
		i := find(*lines, adminGroup)
		if i < 0 {
			return fmt.Errorf("no group %s for the admins", adminGroup)
		}
		(*lines)[i] = addMembers((*lines)[i], admins)
	}
	return nil
}

// addMembers adds names to the last field of a group(5) or gshadow(5) line.
func addMembers(line string, names []string) string {
	head, last := line[:strings.LastIndexByte(line, ':')+1], line[strings.LastIndexByte(line, ':')+1:]
	var members []string
	if last != "" {
		members = strings.Split(last, ",")
	}
	for _, n := range names {
		if !slices.Contains(members, n) {
			members = append(members, n)
		}
	}
	return head + strings.Join(members, ",")
}

func find(lines []string, name string) int {
	return slices.IndexFunc(lines, func(l string) bool { return field(l, 0) == name })
}

func field(line string, n int) string {
	f := strings.Split(line, ":")
	if n >= len(f) {
		return ""
	}
	return f[n]
}
