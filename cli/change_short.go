package cli

import (
	"context"

	"github.com/spf13/cobra"

	"vcn/api"
)

func (a *app) extendCommand() *cobra.Command {
	var f changeFlags
	c := &cobra.Command{
		Use: "extend NAME LENGTH", Short: "Make a slot longer",
		Long: `Makes a reservation's slot longer; the short form of vcnctl change --extend. If it
does not fit, it says what blocks it and how long it could be.`,
		Example: examples("Two hours more", "vcnctl extend mine 2h", "Would it fit?", "vcnctl extend mine 2h --dry-run"),
		Args:    exactly(2, "a NAME and a LENGTH"), ValidArgsFunction: a.completeReservation,
	}
	fl := c.Flags()
	f.registerHow(fl)
	fl.StringVar(&f.extend, "extend", "", "")
	_ = fl.MarkHidden("extend")
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		if fl.Changed("extend") {
			return usage("the length is given twice", "Try: vcnctl extend NAME 2h")
		}
		if d, err := api.ParseDuration(args[1]); err != nil || d <= 0 {
			return usage("the change is not right", "Nothing was changed.",
				api.FieldError{Field: "LENGTH", Value: args[1], Want: "a length such as 90m, 8h, 30d or 2w"})
		}
		if err := fl.Set("extend", args[1]); err != nil {
			return err
		}
		return a.change(ctx, f, args[0], fl)
	})
	return c
}

func (a *app) shrinkCommand() *cobra.Command {
	f := changeFlags{shrinkOnly: true}
	c := &cobra.Command{
		Use: "shrink NAME", Short: "Give workers back",
		Long: `Gives workers of a reservation back; the short form of vcnctl change --workers and
--remove. Workers that leave are drained in the scheduler first. One that still
runs jobs is waited for, for ever or until --deadline; one whose jobs are not
known is never stopped.`,
		Example: examples("Down to four workers", "vcnctl shrink mine --workers 4 --wait", "Without these two", "vcnctl shrink mine --remove compute-3,compute-7 --deadline 1h"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
	}
	fl := c.Flags()
	f.registerWorkers(fl)
	f.registerLeaving(fl)
	f.registerHow(fl)
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		if !fl.Changed("workers") && !fl.Changed("remove") {
			return usage("nothing is to be given back", "Say how many stay (--workers N) or who leaves (--remove NODE)")
		}
		return a.change(ctx, f, args[0], fl)
	})
	return c
}

func (a *app) growCommand() *cobra.Command {
	f := changeFlags{grow: true}
	c := &cobra.Command{
		Use: "grow NAME --workers N", Short: "Add workers",
		Long:    "Adds workers to a reservation; the short form of vcnctl change --workers. They join the running cluster.",
		Example: examples("Up to sixteen workers", "vcnctl grow mine --workers 16 --wait", "Of one group", "vcnctl grow mine --workers bigmem=4"),
		Args:    exactly(1, "a NAME"), ValidArgsFunction: a.completeReservation,
	}
	fl := c.Flags()
	f.registerWorkers(fl)
	f.registerHow(fl)
	c.RunE = a.run(func(ctx context.Context, args []string) error {
		if !fl.Changed("workers") {
			return usage("nothing is to be added", "Say how many there shall be: --workers N")
		}
		return a.change(ctx, f, args[0], fl)
	})
	return c
}
