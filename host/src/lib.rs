//! The tendon program: learning, export, link, hardware-in-the-loop, reports
