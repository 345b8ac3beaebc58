package cli

import (
	"fmt"
	"strings"
	"time"
)

// render is the whole chart as text.
func (c *chart) render(clock func(time.Time) string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s to %s, %s a column\n\n", clock(c.cal.From), clock(c.cal.Until), stepText(c.step))
	labels, ticks := c.axis()
	c.line(&b, "", labels)
	c.line(&b, "", ticks)
	marks := map[string]bool{}
	for _, h := range c.cal.Hosts {
		var row strings.Builder
		for _, x := range c.cells(h) {
			row.WriteString(c.cellText(x))
			if x.who != "" {
				marks[x.who] = true
			}
		}
		c.line(&b, h.Name, row.String())
	}
	var row strings.Builder
	for _, share := range c.freeCells() {
		row.WriteString(c.freeText(share))
	}
	c.line(&b, freeLabel, row.String())
	b.WriteString("\n" + c.legend(marks))
	return b.String()
}

func (c *chart) line(b *strings.Builder, label, cells string) {
	fmt.Fprintf(b, "%s\n", strings.TrimRight(fmt.Sprintf("%-*s  %s", c.label, cut(oneLine(label), c.label), cells), " "))
}

func stepText(d time.Duration) string {
	if d%(24*time.Hour) == 0 {
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
	return span(d)
}

// axis is a line of dates (or hours, of a short calendar), as many as there is
// room for, and one of marks where they begin. Daylight saving moves them as it
// moves the clocks.
func (c *chart) axis() (labels, ticks string) {
	form, key := "Mon 2 Jan", "2006-01-02"
	if c.cal.Until.Sub(c.cal.From) <= 36*time.Hour {
		form, key = "15:04", "2006-01-02T15"
	}
	var begins []int
	for i, last := 0, ""; i < c.columns; i++ {
		if k := c.at(i).In(c.zone).Format(key); k != last {
			begins, last = append(begins, i), k
		}
	}
	text, marks := []byte{}, []byte(strings.Repeat("-", c.columns))
	for n, i := range begins {
		marks[i] = '|'
		label := c.at(i).In(c.zone).Format(form)
		if n == 0 && len(begins) > 2 && begins[1] <= len(label) && begins[1] < begins[2]-begins[1] {
			continue // what is left of the first day is too little for its date
		}
		if (len(text) == 0 || len(text) < i) && i+len(label) <= c.columns {
			text = append(text, strings.Repeat(" ", i-len(text))+label...)
		}
	}
	return string(text), string(marks)
}

// cellText is a cell: a block in the holder's colour, as high as what is held,
// or the holder's letter, a capital if half or more is held.
func (c *chart) cellText(x cell) string {
	switch {
	case x.who == "" && c.colours:
		return "·"
	case x.who == "":
		return "."
	case c.colours:
		return c.paint(x.who, block(x.held))
	}
	mark := c.mark(x.who)
	if x.held < 0.5 {
		mark = strings.ToLower(mark)
	}
	return mark
}

// block is an eighth for the least that is held, and full for all.
func block(share float64) string {
	r := []rune("▁▂▃▄▅▆▇█")
	return string(r[min(max(int(share*float64(len(r))+0.999)-1, 0), len(r)-1)])
}

// mark is a holder's letter.
func (c *chart) mark(who string) string {
	switch n, named := c.number[who]; {
	case who == holdersOffers:
		return "%"
	case !named:
		return "#"
	case n < len(letters):
		return letters[n : n+1]
	}
	return "@"
}

func (c *chart) paint(who, text string) string {
	colour := colourPlain
	if n, named := c.number[who]; named {
		colour = palette[n%len(palette)]
	}
	return fmt.Sprintf("\x1b[38;5;%dm%s\x1b[0m", colour, text)
}

// freeText is how much is free: a block, or tenths, and * for all.
func (c *chart) freeText(share float64) string {
	switch {
	case c.colours && share <= 0:
		return " "
	case c.colours:
		return block(share)
	case share >= 1:
		return "*"
	}
	return fmt.Sprint(int(share * 10))
}

// legend says what the marks mean; only of those that are on the chart.
func (c *chart) legend(shown map[string]bool) string {
	var items []string
	add := func(who, text string) {
		if !shown[who] {
			return
		}
		text = cut(text, c.width-2)
		if c.colours {
			items = append(items, c.paint(who, "█")+" "+text)
		} else {
			items = append(items, c.mark(who)+" "+text)
		}
	}
	more := 0
	for i, who := range c.holders {
		switch {
		case i < len(letters):
			add(who, who)
		case shown[who]:
			more++
		}
	}
	if more > 0 {
		items = append(items, fmt.Sprintf("@ %d more", more))
	}
	add(holdersOffers, holdersOffers)
	add(holdersOthers, holdersOthers)
	var b strings.Builder
	b.WriteString(wrap(items, c.width, c.colours))
	if c.colours {
		b.WriteString("Height: how much of the host is held;\n  of the last row, how much of all is free.\n")
	} else {
		b.WriteString("Capital: half of the host or more is held.\nFree: tenths of all usable hosts; * is all.\n")
	}
	for _, h := range c.cal.Hosts {
		if h.Unusable != "" {
			fmt.Fprintf(&b, "%s takes nothing new: %s\n", oneLine(h.Name), oneLine(h.Unusable))
		}
	}
	return b.String()
}

// wrap joins items with two spaces, in lines of a width.
func wrap(items []string, width int, coloured bool) string {
	var b strings.Builder
	at := 0
	for _, item := range items {
		n := len([]rune(item))
		if coloured {
			n = len([]rune(plainText(item)))
		}
		switch {
		case at > 0 && at+2+n > width:
			b.WriteString("\n")
			at = 0
		case at > 0:
			b.WriteString("  ")
			at += 2
		}
		b.WriteString(item)
		at += n
	}
	if at > 0 {
		b.WriteString("\n")
	}
	return b.String()
}

// plainText is text without the sequences that colour it.
func plainText(s string) string {
	var b strings.Builder
	for s != "" {
		before, after, found := strings.Cut(s, "\x1b[")
		b.WriteString(before)
		if !found {
			break
		}
		_, s, _ = strings.Cut(after, "m")
	}
	return b.String()
}
