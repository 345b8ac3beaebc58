package cli

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Reference is docs/cli.md: every command of the tree, with its text, flags
// and examples, in Markdown. (cobra's own generator would bring a Markdown
// parser along for its manual pages.)
func Reference() []byte {
	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, getenv: func(string) string { return "" }, now: time.Now, zone: time.UTC}
	root := a.root()
	root.InitDefaultCompletionCmd() // which running the tree does by itself
	var b bytes.Buffer
	b.WriteString("# vcnctl\n\nWritten by `make update`; do not edit.\n\n")
	contents(&b, root)
	b.WriteString("\n## Global flags\n\n")
	flagTable(&b, root.PersistentFlags())
	section(&b, root)
	return b.Bytes()
}

func commands(c *cobra.Command) []*cobra.Command {
	var out []*cobra.Command
	for _, s := range c.Commands() {
		if s.IsAvailableCommand() && s.Name() != "help" {
			out = append(out, s)
		}
	}
	return out
}

func contents(b *bytes.Buffer, c *cobra.Command) {
	for _, s := range commands(c) {
		fmt.Fprintf(b, "- [%s](#%s): %s\n", s.CommandPath(), strings.ReplaceAll(s.CommandPath(), " ", "-"), s.Short)
		if s.Name() != "completion" {
			contents(b, s)
		}
	}
}

func section(b *bytes.Buffer, c *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n", c.CommandPath())
	text := c.Long
	if text == "" {
		text = c.Short
	}
	b.WriteString(strings.TrimSpace(text) + "\n")
	if c.Runnable() && (len(commands(c)) == 0 || c.HasParent() && c.HasAvailableLocalFlags()) {
		fmt.Fprintf(b, "\n```\n%s\n```\n", c.UseLine())
	}
	if c.HasParent() && c.HasAvailableLocalFlags() {
		b.WriteString("\n")
		flagTable(b, c.LocalFlags())
	}
	if c.Example != "" {
		var plain []string
		for line := range strings.Lines(c.Example) {
			plain = append(plain, strings.TrimPrefix(strings.TrimRight(line, "\n"), "  "))
		}
		fmt.Fprintf(b, "\n```sh\n%s\n```\n", strings.Join(plain, "\n"))
	}
	if c.Name() == "completion" {
		fmt.Fprintf(b, "\n`%s bash|zsh|fish|powershell` writes the script; `--help` tells where to put it.\n", c.CommandPath())
		return
	}
	for _, s := range commands(c) {
		section(b, s)
	}
}

func flagTable(b *bytes.Buffer, flags *pflag.FlagSet) {
	b.WriteString("| flag | |\n|---|---|\n")
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		name := "`--" + f.Name
		if t, _ := pflag.UnquoteUsage(f); t != "" {
			name += " " + t
		}
		name += "`"
		if f.Shorthand != "" {
			name = "`-" + f.Shorthand + "`, " + name
		}
		usage := strings.ReplaceAll(f.Usage, "|", "\\|")
		if d := f.DefValue; d != "" && d != "0" && d != "false" && d != "[]" && !strings.Contains(usage, "(default") {
			usage += fmt.Sprintf(" (default %s)", d)
		}
		fmt.Fprintf(b, "| %s | %s |\n", name, usage)
	})
}
