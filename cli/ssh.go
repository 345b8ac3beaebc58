package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"vcn/api"
	"vcn/api/client"
)

func (a *app) sshCommand() *cobra.Command {
	var user, identity string
	c := &cobra.Command{
		Use: "ssh NAME [-- COMMAND...]", Short: "Log in to a cluster's frontend",
		Long: `Logs in to the frontend by the system's ssh (or the program in VCN_SSH), as the
first user of the specification or --user. The host key is the one that the API
tells, so ssh asks nothing, and no known_hosts file is touched. Exits with ssh's
exit code.`,
		Example: examples("Log in", "vcnctl ssh mine", "Run a job", "vcnctl ssh mine -- srun -N2 hostname",
			"As somebody else, with another key", "vcnctl ssh mine --user bob -i ~/.ssh/bob"),
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || cmd.ArgsLenAtDash() == 0 {
				return usage("vcnctl ssh wants a NAME", "Try: vcnctl ssh --help")
			}
			return nil
		},
		ValidArgsFunction: a.completeReservation,
		RunE: a.run(func(ctx context.Context, args []string) error {
			return a.ssh(ctx, args[0], user, identity, args[1:])
		}),
	}
	c.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		err = flagError(cmd.CommandPath(), err)
		var p *api.Problem
		if errors.As(err, &p) {
			p.Next = "Put -- before a command to run there: vcnctl ssh NAME -- COMMAND\n" + p.Next
		}
		return err
	})
	c.Flags().StringVar(&user, "user", "", "account to log in to (default: the specification's first user)")
	c.Flags().StringVarP(&identity, "identity", "i", "", "file of the private key, for ssh -i")
	return c
}

func (a *app) ssh(ctx context.Context, ref, user, identity string, command []string) error {
	r, err := asking(ctx, a, "the reservation", func(c *client.Client) (api.Reservation, error) {
		r, _, err := c.Reservation(ctx, ref, 0, 0)
		return r, err
	})
	if err != nil {
		return err
	}
	if r.Frontend == nil || r.Frontend.HostKey == "" || r.Frontend.Address == "" {
		return &api.Problem{Status: 409, Code: api.CodeConflict, Detail: fmt.Sprintf("%s is %s: there is no frontend to log in to yet", r.Name, r.State),
			Next: "Wait for it with: vcnctl watch " + r.Name}
	}
	if user == "" && len(r.Spec.Users) > 0 {
		user = r.Spec.Users[0].Name
	}
	program := a.getenv("VCN_SSH")
	if program == "" {
		program = "ssh"
	}
	if program, err = exec.LookPath(program); err != nil {
		return &api.Problem{Status: 500, Code: api.CodeInternal, Detail: "there is no ssh on this machine: " + err.Error(),
			Next: fmt.Sprintf("Install it (apt install openssh-client), or log in by other means: %s@%s", user, r.Frontend.Address)}
	}
	dir, err := os.MkdirTemp("", "vcn-ssh-")
	if err != nil {
		return fmt.Errorf("make known_hosts: %w", err)
	}
	defer os.RemoveAll(dir)
	known := filepath.Join(dir, "known_hosts")
	if err := os.WriteFile(known, []byte(knownHost(r)), 0o600); err != nil {
		return fmt.Errorf("make known_hosts: %w", err)
	}
	return a.runSSH(ctx, program, sshArgs(r, known, user, identity, command))
}

func hostAlias(r api.Reservation) string { return "vcn-" + r.ID }

// knownHost is the line that pins the frontend's key under the alias.
func knownHost(r api.Reservation) string {
	key := strings.Fields(r.Frontend.HostKey)
	return hostAlias(r) + " " + strings.Join(key[:min(2, len(key))], " ") + "\n"
}

func sshArgs(r api.Reservation, known, user, identity string, command []string) []string {
	args := []string{
		"-o", `UserKnownHostsFile="` + known + `"`, "-o", "GlobalKnownHostsFile=/dev/null", "-o", "HostKeyAlias=" + hostAlias(r),
		"-o", "StrictHostKeyChecking=yes", "-o", "CheckHostIP=no", "-o", "UpdateHostKeys=no",
	}
	if user != "" {
		args = append(args, "-l", user)
	}
	if identity != "" {
		args = append(args, "-i", identity)
	}
	return append(append(args, "--", r.Frontend.Address), command...)
}

func (a *app) runSSH(ctx context.Context, program string, args []string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if ctx.Err() == nil && errors.As(err, &exit) && exit.ExitCode() >= 0 {
		return &exitError{exit.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("run ssh: %w", err)
	}
	return nil
}
